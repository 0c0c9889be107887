"""`python -m bench.pruning`: what pruners cost and lose, on made-up trials.

A trial has a worth, in points of r_mean, and each rung shows it with noise that falls along the way. Some trials are
drawn from a whole space and mostly bad; the others are neighbours of the best, as a search draws them. What counts is
the share of all steps that the trials take together, and the worth of the trial that looked best at its end.
"""

import sys
from dataclasses import dataclass, replace

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from raydd.config import SweepConfig
from raydd.tuning.prices import END
from raydd.tuning.pruning import Look, Standing, up_the_rungs

_BAD = 8.0  # points below the neighbours, as the deviation of a normal distribution's lower half
_NOISE = {5: 1.5, 15: 1.0, 45: 0.6, END: 0.4}  # points, by percent of the steps


@dataclass(frozen=True)
class Options:
    """Compare pruners on made-up trials."""

    pruners: tuple[str, ...] = ("none", "median", "hyperband", "asha")
    """As `sweep.pruner` names them."""
    trials: int = 200
    """Trials of a sweep."""
    far: int = 25
    """The first so many are drawn from the whole space."""
    near: float = 0.7
    """Standard deviation of what the others, neighbours of the best, are worth, in points."""
    repeats: int = 100
    """Sweeps."""


def sweep(pruner: str, seed: int, options: Options) -> tuple[float, float]:
    """One sweep: the share of all steps that its trials took, and the worth of the one that looked best."""
    rng, settings = np.random.default_rng([5, seed]), SweepConfig(pruner=pruner)  # type: ignore[arg-type]
    others: list[Standing] = []
    steps, ended = 0, [(-np.inf, -np.inf)]
    for number in range(options.trials):
        worth = -abs(_BAD * rng.normal()) if number < options.far else options.near * rng.normal()

        def look(percent: int, worth: float = worth) -> Look:
            return Look(worth + _NOISE[percent] * rng.normal())

        own, stop = up_the_rungs(Standing(number), look, others, settings)
        if stop == END:
            end = look(END)
            own = replace(own, end=end)
            ended.append((end.r_mean, worth))
        steps += stop
        others.append(own)
    return steps / (END * options.trials), max(ended)[1]


def main(options: Options) -> int:
    """Print the table."""
    table = Table("pruner", "steps", "worth of the best", box=None, pad_edge=False)
    for pruner in options.pruners:
        shares, best = np.array([sweep(pruner, seed, options) for seed in range(options.repeats)]).T
        error = best.std(ddof=1) / len(best) ** 0.5
        table.add_row(pruner, f"{shares.mean():.0%}", f"{best.mean():.2f} ± {error:.2f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, use_underscores=True)))
