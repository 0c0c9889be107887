"""Synthetic sets on disk: their provenance, and how they are written, read back and checked."""
