"""Repeats a call in a background thread while a block runs."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from raydd.secrets_hidden import hidden

log = logging.getLogger(__name__)


@contextlib.contextmanager
def meanwhile(action: Callable[[], None], every: float, name: str) -> Iterator[None]:
    """Call a function every few seconds until the block ends. No call is running after the block.

    Errors of the function are logged, and the calls go on.

    Args:
        action: called in a thread.
        every: seconds of pause before each call, including the first.
        name: name of the thread.
    """
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(every):
            try:
                action()
            except Exception as error:  # the next call may succeed, and the block must go on
                log.warning("%s: %s", name, hidden(f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
