"""A synthetic set on disk: what made it, how it is written, and how it is read back and checked."""
