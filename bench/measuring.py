"""How a row is measured: pieces of work, timed in turn in one process, and added up as often as each side does them.

A piece is timed in rounds, every piece once a round, so that whatever else the machine does falls on all of them alike.
A round gives a pair of both sides, and the median of the pairs counts. What takes hours is never run whole: it is the
sum of its pieces, each times its number.
"""

import ctypes
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

Clock = Literal["cpu", "wall"]
_SHORTEST, _MOST = 0.02, 10  # seconds; shorter pieces are repeated within a round, at most so often
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


@dataclass(frozen=True)
class Size:
    """How large the measured pieces are; ratios move with it, and CI has minutes alone."""

    rounds: int = 5
    expert_batch: int = 128
    """Pairs of an expert's minibatch."""
    image_size: int = 224
    """Side of the images in pixels, where they are encoded."""
    width: int = 2304
    """Width of image features and heads where encoders play no part; texts are a third as wide."""
    retrieval: tuple[int, int] = (5_000, 25_000)
    """Images and captions to rank."""
    selection: tuple[int, int] = (500, 30_000)
    """Pairs to select, and pairs to select from."""
    data: str = ""
    """A YAML file whose data the row `equal` takes; the bundled pictures if empty."""


FULL = Size()
QUICK = Size(3, 32, 96, 768, (1_000, 5_000), (100, 6_000))


@dataclass(frozen=True)
class Pieces:
    """The pieces of both sides, and how often each side does each."""

    run: Mapping[str, Callable[[], object]]
    baseline: Mapping[str, float]
    raydd: Mapping[str, float]

    def side(self, name: str) -> Mapping[str, float]:
        """The pieces of `baseline` or of `raydd`, with their numbers."""
        return {"baseline": self.baseline, "raydd": self.raydd}[name]


Round = Mapping[str, float]  # seconds of each piece


def time_pieces(pieces: Pieces, rounds: int, clock: Clock) -> list[Round]:
    """Seconds of each piece in each round; one more before them warms up and finds how often a short one runs."""
    first = {name: _seconds(run, 1, clock) for name, run in pieces.run.items()}
    repeats = {name: min(_MOST, max(1, round(_SHORTEST / max(seconds, 1e-6)))) for name, seconds in first.items()}
    return [{name: _seconds(run, repeats[name], clock) for name, run in pieces.run.items()} for _ in range(rounds)]


def median(rounds: Sequence[Round], name: str) -> float:
    """Median seconds of a piece."""
    return statistics.median(seconds[name] for seconds in rounds)


def total(counts: Mapping[str, float], seconds: Round) -> float:
    """Seconds of a side in one round: each piece's times its number."""
    return sum(count * seconds[name] for name, count in counts.items())


def now(clock: Clock) -> float:
    """Seconds on the wall, or of CPU: of all threads of this process and of its ended children."""
    if clock == "wall":
        return time.perf_counter()
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def keep_memory() -> None:
    """Let glibc keep the memory that it once took.

    Else a large tensor may be given back and taken again, page by page, at every step, or not, as it happens with what
    ran before. The published loop, which makes many, takes up to twice as long where it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def peak_bytes(pieces: Pieces, side: str) -> int:
    """What the pieces of a side add to this process's memory at their peak, each run once."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # else what was freed before would hide as much of what is taken
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far, see proc(5)
    for name in pieces.side(side):
        pieces.run[name]()
    return max(0, _peak() - before)


def memory_is_measurable() -> bool:
    """Whether this system lets a process forget its peak: Linux, with /proc writable."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def _seconds(run: Callable[[], object], repeats: int, clock: Clock) -> float:
    began = now(clock)
    for _ in range(repeats):
        run()
    return (now(clock) - began) / repeats
