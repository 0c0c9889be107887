"""How a row is measured: pieces of work, timed in turn in one process, and added up as often as each side does them.

A piece is timed in rounds, every piece once a round, so that whatever else the machine does falls on all of them alike;
the median counts. What takes hours is never run whole: it is the sum of its pieces, each times its number.
"""

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

Clock = Literal["cpu", "wall"]
_SHORTEST, _MOST = 0.02, 10  # seconds; shorter pieces are repeated within a round, at most so often


@dataclass(frozen=True)
class Size:
    """How large the measured pieces are; ratios move little with it, and CI has minutes alone."""

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


def time_pieces(pieces: Pieces, rounds: int, clock: Clock) -> dict[str, float]:
    """Median seconds of each piece; a round before the first warms up and finds how often a short one is repeated."""
    first = {name: _seconds(run, 1, clock) for name, run in pieces.run.items()}
    repeats = {name: min(_MOST, max(1, round(_SHORTEST / max(seconds, 1e-6)))) for name, seconds in first.items()}
    seen: dict[str, list[float]] = {name: [] for name in pieces.run}
    for _ in range(rounds):
        for name, run in pieces.run.items():
            seen[name].append(_seconds(run, repeats[name], clock))
    return {name: statistics.median(seconds) for name, seconds in seen.items()}


def total(counts: Mapping[str, float], seconds: Mapping[str, float]) -> float:
    """Seconds of a side: each piece's median times its number."""
    return sum(count * seconds[name] for name, count in counts.items())


def now(clock: Clock) -> float:
    """Seconds on the wall, or of CPU: of all threads of this process and of its ended children."""
    if clock == "wall":
        return time.perf_counter()
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def peak_bytes(pieces: Pieces, side: str) -> int:
    """What the pieces of a side add to this process's memory at their peak, each run once."""
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
