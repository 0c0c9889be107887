"""Leaving in good order: a process that is told to end (SIGTERM) keeps the state of its work before it does.

A spot machine that is taken back, a drained Kubernetes node and a scheduler's limit all come as SIGTERM, on which a Ray
worker exits from its main thread, while the trial runs in another one. The exit waits for the trial.
"""

import atexit
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

_at_rest = threading.Event()  # the process's work waits for an answer
_LOOK_SECONDS = 0.05
# That an exit waits for the work. Once `cluster/spot.py` has told Ray, Amazon's notice of 120 s leaves 105 of them, and
# Google's of 30 s leaves 15: there a trial that takes longer goes on from its last checkpoint.
GRACE_SECONDS = 60.0


@contextlib.contextmanager
def exit_waits(grace: float = GRACE_SECONDS) -> Iterator[Callable[[], bool]]:
    """Let the process's exit wait for the block to end; gives whether an exit is waiting, for the work to ask.

    Args:
        grace: seconds that the exit waits at most.
    """
    waiting, over = threading.Event(), threading.Event()

    def wait() -> None:
        waiting.set()
        end = time.monotonic() + grace
        while not (over.wait(_LOOK_SECONDS) or _at_rest.is_set() or time.monotonic() > end):
            pass

    atexit.register(wait)
    try:
        yield waiting.is_set
    finally:
        over.set()
        atexit.unregister(wait)


@contextlib.contextmanager
def at_rest() -> Iterator[None]:
    """Let the process's exit wait no longer while the block waits for an answer, all that it has done being kept.

    An exit makes the answer's sender wait as well, if that is the thread that exits.
    """
    _at_rest.set()
    try:
        yield
    finally:
        _at_rest.clear()
