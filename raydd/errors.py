"""The errors that a user can cause.

A message has one sentence of fact and one of help. The traceback is shown only with `--debug`.
"""

import difflib
from collections.abc import Iterable


class RayddError(Exception):
    """An error in the user's input. `str(error)` names what is wrong and says what to do."""


class ConfigError(RayddError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another setting."""


class DataError(RayddError):
    """A data set, an image or a caption cannot be read as it was described."""


class RecordError(RayddError):
    """A record of the store is missing, incomplete, damaged, or was made with other settings."""


class PlaceError(RayddError):
    """The store does not answer, or its disk is full. The request itself is valid and can be repeated."""


class TrialsError(RayddError):
    """Trials of a sweep fail one after another for the same reason, so no single trial's settings are at fault."""


class NonFiniteError(RayddError):
    """A loss, a gradient or a score became NaN or infinite. The last finite state is kept."""


_SHOWN_LENGTH = 80  # characters of a wrong value in a message


def shown(value: object) -> str:
    """Return a wrong value as messages show it: its `repr`, truncated if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError, MemoryError):  # thousands of digits, or nested too deeply
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


def nearest(wrong: str, known: Iterable[str]) -> str:
    """Return the help in an "unknown name" message: the nearest known name if one is similar, and all known names."""
    names = sorted(known)
    similar = difflib.get_close_matches(wrong, names, n=1)
    suggestion = f"Did you mean {similar[0]!r}? " if similar else ""
    return f"{suggestion}Known: {', '.join(names)}."


def nearest_few(wrong: str, known: Iterable[str], listing: str) -> str:
    """Return the help for names of which a library knows hundreds: similar names, or where all are listed."""
    similar = difflib.get_close_matches(wrong, list(known), n=3)
    return f"Did you mean {' or '.join(similar)}?" if similar else f"See {listing}."
