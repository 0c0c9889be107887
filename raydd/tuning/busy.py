"""Work that nothing can count, shown while it lasts."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from raydd.cluster.meanwhile import meanwhile
from raydd.terminal.progress import NowAndThen

_LOOK_SECONDS = 1.0  # between two looks at whether a log is to be told again


@contextmanager
def busy_on(console: Console, work: str) -> Iterator[None]:
    """Name the work for as long as the block lasts: with a spinner, or in a log by a line now and then."""
    if console.is_terminal:
        with console.status(work):
            yield
        return
    say = NowAndThen(lambda words: console.print(words, markup=False, highlight=False, soft_wrap=True))
    say(work)
    with meanwhile(lambda: say(work), _LOOK_SECONDS, work):
        yield
