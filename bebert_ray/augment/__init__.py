"""Copies of texts in which some words are replaced by likely or similar ones."""
