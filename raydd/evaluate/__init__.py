"""Scores of synthetic sets: students, retrieval, collapse."""
