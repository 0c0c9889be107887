"""The errors that a user can cause: one sentence of fact, one of help, a traceback only with `--debug`."""

import difflib
from collections.abc import Iterable


class RayddError(Exception):
    """A mistake in what raydd was given. `str(error)` names the thing that is wrong and says what to do."""


class ConfigError(RayddError):
    """A setting is unknown, of the wrong type, out of range, or at odds with another one."""


class DataError(RayddError):
    """A data set, an image or a caption cannot be read as it was described."""


class RecordError(RayddError):
    """A record of the store is missing, incomplete, damaged, or was made with other settings."""


class PlaceError(RayddError):
    """The store does not answer, or its disk is full: what was asked for is right, and may be asked for again."""


class TrialsError(RayddError):
    """Trials of a sweep fail one after another for the same reason, which is theirs all and so none's settings."""


class NonFiniteError(RayddError):
    """A loss, a gradient or a score became NaN or infinite; the last good state was kept."""


_SHOWN = 80  # characters of a wrong value


def shown(value: object) -> str:
    """A wrong value as a message shows it: as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError, MemoryError):  # thousands of digits, or nested too deeply
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def nearest(wrong: str, known: Iterable[str]) -> str:
    """The help half of an "unknown name" message: the nearest known name if one is near, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}Known: {', '.join(names)}."


def nearest_few(wrong: str, known: Iterable[str], listing: str) -> str:
    """The same where a library knows hundreds: the nearest known names, or where to see all of them."""
    close = difflib.get_close_matches(wrong, list(known), n=3)
    return f"Did you mean {' or '.join(close)}?" if close else f"See {listing}."
