"""Graceful stop: a process that gets SIGTERM saves the state of its work before it ends.

A spot machine that is taken back, a drained Kubernetes node and a scheduler's time limit all send SIGTERM. Ray's
handler ends a worker at once, and sometimes without Python's own exit. The handler here runs before Ray's: it asks the
running work to stop, and passes the signal on to Ray when the work has stopped.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

# The longest time that work may take to stop. After `cluster/spot.py` has told Ray, 105 s are left of Amazon's notice
# of 120 s, and 15 s of Google's notice of 30 s. A trial that takes longer there continues from its last checkpoint.
GRACE_SECONDS = 60.0

_running_work: set[object] = set()
_stop_requested = threading.Event()


def stop_requested() -> bool:
    """Whether the running work should stop. `exit_waits` ends the process when its block has ended."""
    return _stop_requested.is_set()


@contextlib.contextmanager
def exit_waits() -> Iterator[None]:
    """Delay an exit by SIGTERM until the block has ended; its work must check `stop_requested`.

    If the block is not in the main thread, `heed_notice` must be called in the main thread first.
    """
    if threading.current_thread() is threading.main_thread():
        heed_notice()
    work = object()
    _running_work.add(work)
    try:
        yield
    finally:
        _running_work.discard(work)
        if _stop_requested.is_set():
            os.kill(os.getpid(), signal.SIGTERM)  # handled by the main thread, from any thread


def heed_notice() -> None:
    """Handle SIGTERM as a request to the running work to stop. Without running work, the handler before applies.

    Raises:
        ValueError: this is not the main thread, the only one that may set signal handlers in Python.
    """
    old_handler = signal.getsignal(signal.SIGTERM)
    if not isinstance(old_handler, _StopHandler):
        signal.signal(signal.SIGTERM, _StopHandler(old_handler))


@dataclass(frozen=True)
class _StopHandler:
    """The signal handler that asks the running work to stop; without running work, it calls the handler before it."""

    previous_handler: Callable[[int, FrameType | None], object] | int | None

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as Python calls it
        if _running_work:
            _stop_requested.set()
            return
        signal.signal(number, self.previous_handler)
        signal.raise_signal(number)
