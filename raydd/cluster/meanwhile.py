"""What is done again and again beside a block, in a thread of its own."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def meanwhile(do: Callable[[], None], every: float, name: str) -> Iterator[None]:
    """Do something every so many seconds until the block ends; it has ended too by then.

    Args:
        do: called in a thread.
        every: seconds of pause, before the first time too.
        name: of the thread.
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every):
            do()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
