"""Each stage beside the published loop, timed in one run: `python -m bench`. Not part of the wheel."""
