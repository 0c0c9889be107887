"""One row of the table: what is compared, what counts, and how much is asked of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.measuring import Pieces, Size


@dataclass(frozen=True)
class Measure:
    """What of the two sides counts."""

    of: Callable[[float, float], float]
    """From the baseline's and raydd's number."""
    form: str
    """How it is printed."""
    at_least: bool
    """Whether the floor is the least or the most that it may be."""

    def holds(self, value: float, floor: float) -> bool:
        """Whether a value keeps to a floor."""
        return value >= floor if self.at_least else value <= floor


FASTER = Measure(lambda baseline, raydd: baseline / raydd, "{:.1f} x", at_least=True)
WITHIN = Measure(lambda baseline, raydd: raydd / baseline, "{:.2f} times as long", at_least=False)
ITSELF = Measure(lambda baseline, raydd: raydd, "{:.2f} s", at_least=False)
GIGABYTES = Measure(lambda baseline, raydd: raydd, "{:.3f} GB", at_least=False)
SHARE = Measure(lambda baseline, raydd: 100 * baseline / raydd, "{:.0f} %", at_least=True)


@dataclass(frozen=True)
class Memory:
    """How much raydd's side may add to a process's memory at its peak."""

    megabytes: float | None = None
    share: float | None = None
    """Of the baseline's."""

    def holds(self, baseline: int, raydd: int) -> bool:
        """Whether raydd's bytes keep to the limits."""
        within = self.megabytes is None or raydd <= self.megabytes * 1e6
        return within and (self.share is None or raydd <= self.share * baseline)


@dataclass(frozen=True)
class Row:
    """A row: either pieces that are timed, or two numbers that are measured in a way of their own."""

    name: str
    what: str
    baseline: str
    """What stands in the baseline's column, and how it was got."""
    floor: float
    aim: float | None = None
    quick_floor: float | None = None
    """The floor at the quick size; None leaves the row out there."""
    measure: Measure = FASTER
    memory: Memory | None = Memory()
    """Limits of peak memory; None where it is not measured, since the work is done in other processes."""
    pieces: Callable[[Size, Path], Pieces] | None = None
    numbers: Callable[[Size, Path], tuple[float, float]] | None = None
