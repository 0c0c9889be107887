"""Help for a wrong name where a library knows hundreds: the nearest few, not all of them."""

import difflib
from collections.abc import Iterable


def nearest_few(wrong: str, known: Iterable[str], listing: str) -> str:
    """The nearest known names, or where to see all of them."""
    close = difflib.get_close_matches(wrong, list(known), n=3)
    return f"Did you mean {' or '.join(close)}?" if close else f"See {listing}."
