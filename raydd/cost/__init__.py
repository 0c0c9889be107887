"""Estimates what a planned run needs before it starts: bytes of disk and memory, and seconds on one core."""
