"""Scoring files of any size with a finished model; Ray is imported in `stream` alone."""
