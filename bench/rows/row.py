"""One row of the benchmark: what is compared, how the two sides are compared, and the floor."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.measuring import Pieces, Size


@dataclass(frozen=True)
class Measure:
    """How the numbers of the two sides are compared."""

    compute: Callable[[float, float], float]
    """Computes the value from the baseline's and raydd's number."""
    value_format: str
    """Format of the value."""
    at_least: bool
    """True: the value must be at least the floor. False: the value must be at most the floor."""

    def holds(self, value: float, floor: float) -> bool:
        """Whether a value meets a floor."""
        return value >= floor if self.at_least else value <= floor


FASTER = Measure(lambda baseline, raydd: baseline / raydd, "{:.1f} x", at_least=True)
WITHIN = Measure(lambda baseline, raydd: raydd / baseline, "{:.2f} times as long", at_least=False)
ITSELF = Measure(lambda baseline, raydd: raydd, "{:.2f} s", at_least=False)
GIGABYTES = Measure(lambda baseline, raydd: raydd, "{:.3f} GB", at_least=False)
SHARE = Measure(lambda baseline, raydd: 100 * baseline / raydd, "{:.0f} %", at_least=True)


@dataclass(frozen=True)
class Memory:
    """Limits for the peak memory that raydd's side adds to a process."""

    megabytes: float | None = None
    share: float | None = None
    """Share of the memory that the baseline adds."""

    def holds(self, baseline: int, raydd: int) -> bool:
        """Whether raydd's bytes are within the limits."""
        within = self.megabytes is None or raydd <= self.megabytes * 1e6
        return within and (self.share is None or raydd <= self.share * baseline)


@dataclass(frozen=True)
class Row:
    """A row: either pieces that are timed, or a function that measures both numbers itself."""

    name: str
    description: str
    baseline: str
    """What the baseline's number is, and how it is measured."""
    floor: float
    aim: float | None = None
    quick_floor: float | None = None
    """The floor for `--quick`; None: `--quick` skips the row."""
    measure: Measure = FASTER
    memory: Memory | None = Memory()
    """Limits of peak memory; None: memory is not measured, for example because the work runs in other processes."""
    pieces: Callable[[Size, Path], Pieces] | None = None
    numbers: Callable[[Size, Path], tuple[float, float]] | None = None
