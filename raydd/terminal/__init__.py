"""Terminal output: progress, tables of scores, and short texts."""
