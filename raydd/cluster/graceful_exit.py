"""Leaving in good order: a process that is told to end (SIGTERM) keeps the state of its work before it does.

A spot machine that is taken back, a drained Kubernetes node and a scheduler's limit all come as SIGTERM, on which a Ray
worker exits from its main thread, while the trial runs in another one. The exit waits for the trial.
"""

import atexit
import contextlib
import threading
from collections.abc import Callable, Iterator

GRACE_SECONDS = 60.0  # that an exit waits for the work; a spot notice leaves 120


@contextlib.contextmanager
def exit_waits(grace: float = GRACE_SECONDS) -> Iterator[Callable[[], bool]]:
    """Let the process's exit wait for the block to end; gives whether an exit is waiting, for the work to ask.

    Args:
        grace: seconds that the exit waits at most.
    """
    waiting, over = threading.Event(), threading.Event()

    def wait() -> None:
        waiting.set()
        over.wait(grace)

    atexit.register(wait)
    try:
        yield waiting.is_set
    finally:
        over.set()
        atexit.unregister(wait)
