"""Synthetic sets for others: opened from their folder, described from their provenance, written in common formats."""
