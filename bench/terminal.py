"""The console that all benches print their tables on."""

import sys

from rich.console import Console

_WIDTH = 140  # characters of a line if the output is not a terminal; Rich would take 80, and cut the columns


def terminal() -> Console:
    """Return a console as wide as the terminal, or wide enough for all columns of a table."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH)
