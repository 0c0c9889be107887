"""Measures a row: times pieces of work in turn in one process, and adds them up as often as each side runs them.

Each round times every piece once, so that other work on the machine affects all pieces alike. A round gives one number
for each side, and medians over the rounds are reported. Work that takes hours is never run as a whole: its time is
the sum over its pieces, each times the number of its runs.
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
_MIN_SECONDS, _MAX_REPEATS = 0.02, 10  # pieces shorter than 0.02 s are repeated within a round, at most 10 times
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3)


@dataclass(frozen=True)
class Size:
    """Sizes of the measured pieces. Ratios depend on them; CI uses small ones, since it has only minutes."""

    rounds: int = 5
    expert_batch: int = 128
    """Pairs in an expert's minibatch."""
    image_size: int = 224
    """Side of encoded images in pixels."""
    width: int = 2304
    """Width of image features and heads in rows without encoders; text features are a third as wide."""
    retrieval: tuple[int, int] = (5_000, 25_000)
    """Number of images and of captions to rank."""
    selection: tuple[int, int] = (500, 30_000)
    """Number of pairs to select, and number of pairs to select from."""
    data: str = ""
    """YAML file of the data set for the row `equal`; the bundled pictures if empty."""


FULL = Size()
QUICK = Size(3, 32, 96, 768, (1_000, 5_000), (100, 6_000))


@dataclass(frozen=True)
class Pieces:
    """The pieces of both sides, and how often each side runs each piece."""

    run: Mapping[str, Callable[[], object]]
    baseline: Mapping[str, float]
    raydd: Mapping[str, float]

    def side(self, name: str) -> Mapping[str, float]:
        """Return the pieces of `baseline` or `raydd`: name to number of runs."""
        return {"baseline": self.baseline, "raydd": self.raydd}[name]


Round = Mapping[str, float]  # seconds of each piece


def time_pieces(pieces: Pieces, rounds: int, clock: Clock) -> list[Round]:
    """Return the seconds of each piece in each round.

    One additional round comes first: it warms up, and shows how often short pieces must be repeated.
    """
    warm_up = {name: _time_run(run, 1, clock) for name, run in pieces.run.items()}
    repeats = {
        name: min(_MAX_REPEATS, max(1, round(_MIN_SECONDS / max(seconds, 1e-6)))) for name, seconds in warm_up.items()
    }
    return [{name: _time_run(run, repeats[name], clock) for name, run in pieces.run.items()} for _ in range(rounds)]


def median(rounds: Sequence[Round], name: str) -> float:
    """Median seconds of a piece over the rounds."""
    return statistics.median(seconds[name] for seconds in rounds)


def total(counts: Mapping[str, float], seconds: Round) -> float:
    """Return the seconds of one side in one round: each piece's seconds times the number of its runs, summed."""
    return sum(count * seconds[name] for name, count in counts.items())


def now(clock: Clock) -> float:
    """Return wall-clock seconds, or CPU seconds of all threads of this process and of its children that have ended."""
    if clock == "wall":
        return time.perf_counter()
    usages = [resource.getrusage(processes) for processes in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def keep_memory() -> None:
    """Let glibc keep the memory that it has allocated.

    Otherwise glibc may return and allocate the memory of a large tensor again at every step, page by page, depending on
    what ran before. The published loop makes many large tensors, and takes up to twice as long when this happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def peak_bytes(pieces: Pieces, side: str) -> int:
    """Run each piece of a side once, and return how much they add to this process's memory at their peak, in bytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # otherwise the pieces would reuse memory that was freed before, and the peak would be too low
    rss_before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # reset the recorded peak, see proc(5)
    for name in pieces.side(side):
        pieces.run[name]()
    return max(0, peak_memory() - rss_before)


def memory_is_measurable() -> bool:
    """Whether this system lets a process reset its recorded peak memory: Linux with a writable /proc."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def peak_memory() -> int:
    """Return the largest memory that this process has had since its start, or since the peak was reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def _time_run(run: Callable[[], object], repeats: int, clock: Clock) -> float:
    start_time = now(clock)
    for _ in range(repeats):
        run()
    return (now(clock) - start_time) / repeats
