"""Consoles that print file names, captions and settings as plain text, never as markup or terminal commands."""

import re
from typing import Any

from rich.console import Console
from rich.text import Text

from raydd.secrets_hidden import hidden

# Characters that move the cursor, change colours, rename the window or change the direction of writing. Line breaks
# and tabs are allowed.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    """Return a text that is safe for a terminal and a log: control characters are escaped, secrets redacted."""
    return _COMMANDS.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), hidden(str(text)))


class PlainConsole(Console):
    """A console that prints every string as plain text, in cells, titles and lines."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string without markup, emoji and escape characters."""
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False})


def open_console(*, stderr: bool = False) -> Console:
    """Return the console of a command: standard output, or standard error."""
    return PlainConsole(stderr=stderr)
