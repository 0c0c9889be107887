"""CPU seconds of this process, by part of the work, which a sweep adds up over its trials; and a stopwatch."""

import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Part = Literal["experts", "distillation steps", "fits of learning rates", "scores"]
REST = "the rest"  # starting processes, reading features, writing records

PROCESS = secrets.token_hex(4)
"""Identifies this process, also among earlier processes with the same process id."""

_seconds_by_part: defaultdict[str, float] = defaultdict(float)
_inner_seconds: list[float] = []  # for each open part, the CPU seconds of the parts within it


@contextmanager
def counted_as(part: Part) -> Iterator[None]:
    """Count the CPU seconds inside the block for this part, except those that an inner part counts.

    The seconds of all threads are counted, so only one thread may use this at a time.
    """
    start = time.process_time()
    _inner_seconds.append(0.0)
    try:
        yield
    finally:
        elapsed = time.process_time() - start
        _seconds_by_part[part] += elapsed - _inner_seconds.pop()
        if _inner_seconds:
            _inner_seconds[-1] += elapsed


def cpu_seconds() -> dict[str, float]:
    """Return the CPU seconds of this process since its start, by part; `REST` is what no part has counted."""
    return {**_seconds_by_part, REST: time.process_time() - sum(_seconds_by_part.values())}


@dataclass(frozen=True)
class ElapsedTime:
    """Time that a piece of work took."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """CPU time of all threads of this process."""

    def __add__(self, other: "ElapsedTime") -> "ElapsedTime":
        return ElapsedTime(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)

    def __sub__(self, other: "ElapsedTime") -> "ElapsedTime":
        return ElapsedTime(self.seconds - other.seconds, self.cpu_seconds - other.cpu_seconds)

    def share(self, fraction: float) -> "ElapsedTime":
        """Return a share of the time."""
        return ElapsedTime(self.seconds * fraction, self.cpu_seconds * fraction)


class Watch:
    """Stopwatch for wall time and CPU time."""

    def __init__(self) -> None:
        """Start the stopwatch."""
        self._start = ElapsedTime(time.perf_counter(), time.process_time())

    def read(self) -> ElapsedTime:
        """Return the time since the start."""
        return ElapsedTime(time.perf_counter(), time.process_time()) - self._start
