"""Scoring files of any size with a finished model; Ray comes in with `stream` alone."""
