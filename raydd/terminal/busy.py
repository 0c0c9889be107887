"""Shows work that has no progress count, such as starting Ray, while it lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from raydd.meanwhile import meanwhile
from raydd.terminal.console import visible
from raydd.terminal.progress import ThrottledLog

_LOOK_SECONDS = 1.0  # between two checks whether the next line of a log is due


@contextmanager
def busy_on(console: Console, work: str) -> Iterator[None]:
    """Show the name of the work until the block ends: with a spinner, or in a log by a line now and then."""
    with doing_on(console, work) as show, meanwhile(lambda: show(work), _LOOK_SECONDS, work):
        yield


@contextmanager
def doing_on(console: Console, work: str) -> Iterator[Callable[[str], None]]:
    """Show the name of the work until the block ends, with a spinner or in a log.

    Yields:
        A function that shows other words in its place; a log gets them as a line now and then.
    """
    if not console.is_terminal:
        say = ThrottledLog(lambda words: console.print(words, markup=False, highlight=False, soft_wrap=True))
        say(work)
        yield lambda words: say(words or work)
        return
    with console.status(work) as status:
        yield lambda words: status.update(visible(words) or work)
