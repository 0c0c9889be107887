"""What the terminal shows: progress, tables of scores, short texts."""
