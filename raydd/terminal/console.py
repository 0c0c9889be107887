"""The terminal as raydd writes on it: file names, captions and settings are text, never markup or commands."""

import re
from typing import Any

from rich.console import Console
from rich.text import Text

from raydd.secrets_hidden import hidden

# What moves the cursor, colours, renames the window or turns the direction of writing; line breaks and tabs may stay.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    """Text fit for a terminal and a log: control characters spelt out, secrets hidden."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), hidden(str(text)))


class PlainConsole(Console):
    """A console that takes every string, in cells, titles and lines alike, for text."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as it stands: no markup, no emoji, no escape characters."""
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False})


def open_console(*, stderr: bool = False) -> Console:
    """The console of a command: standard output, or the error stream."""
    return PlainConsole(stderr=stderr)
