"""Benchmarks: `python -m bench` times each stage next to the published loop. Not part of the wheel."""
