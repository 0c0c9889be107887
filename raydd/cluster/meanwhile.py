"""What is done again and again beside a block, in a thread of its own."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from raydd.secrets_hidden import hidden

log = logging.getLogger(__name__)


@contextlib.contextmanager
def meanwhile(do: Callable[[], None], every: float, name: str) -> Iterator[None]:
    """Do something every so many seconds until the block ends; it has ended too by then.

    What it raises is logged, and it is done again the next time.

    Args:
        do: called in a thread.
        every: seconds of pause, before the first time too.
        name: of the thread.
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every):
            try:
                do()
            except Exception as error:  # the next time may go well, and the block has to go on
                log.warning("%s: %s", name, hidden(f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
