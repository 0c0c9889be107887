"""Leaving in good order: a process that is told to end (SIGTERM) keeps the state of its work before it does.

A spot machine that is taken back, a drained Kubernetes node and a scheduler's limit all come as SIGTERM. Ray's handler
ends a worker at once, and now and then without Python's own exit, so ours stands before it: the work under way is asked
to leave, and Ray hears of the signal when it has.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

# That work takes to leave, at most. Once `cluster/spot.py` has told Ray, Amazon's notice of 120 s leaves 105 of them,
# and Google's of 30 s leaves 15: there a trial that takes longer goes on from its last checkpoint.
GRACE_SECONDS = 60.0

_under_way: set[object] = set()
_told = threading.Event()


def told_to_leave() -> bool:
    """Whether the work under way is to leave: `exit_waits` ends the process when its block has ended."""
    return _told.is_set()


@contextlib.contextmanager
def exit_waits() -> Iterator[None]:
    """Let an exit wait for the block, whose work asks `told_to_leave`; outside the main thread, `heed_notice` first."""
    if threading.current_thread() is threading.main_thread():
        heed_notice()
    work = object()
    _under_way.add(work)
    try:
        yield
    finally:
        _under_way.discard(work)
        if _told.is_set():
            os.kill(os.getpid(), signal.SIGTERM)  # to the main thread, whichever this is


def heed_notice() -> None:
    """Take SIGTERM for a notice to the work under way, and without any for what it was before.

    Raises:
        ValueError: this is not the main thread; Python lets no other handle signals.
    """
    before = signal.getsignal(signal.SIGTERM)
    if not isinstance(before, _Notice):
        signal.signal(signal.SIGTERM, _Notice(before))


@dataclass(frozen=True)
class _Notice:
    """The handler that asks the work under way to leave, and without any hands on to the one before it."""

    before: Callable[[int, FrameType | None], object] | int | None

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as Python calls it
        if _under_way:
            _told.set()
            return
        signal.signal(number, self.before)
        signal.raise_signal(number)
