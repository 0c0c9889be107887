"""`python -m bench.pruning`: compares pruners on simulated trials.

Each trial has a true score in points of r_mean (its worth). Each rung shows the worth with noise, which decreases from
rung to rung. Some trials are drawn from the whole space and are mostly bad; the others are neighbours of the best, as a
search draws them. The table shows the share of all steps that the trials take together, and the worth of the trial with
the best score at its end.
"""

import sys
from dataclasses import dataclass, replace

import numpy as np
import tyro
from rich.table import Table

from bench.terminal import terminal
from raydd.config import SweepConfig
from raydd.tuning.prices import END
from raydd.tuning.pruning import Look, Standing, simulate_trial

_WORTH_SCALE = 8.0  # scale, in points below the neighbours, of the half-normal worth of trials from the whole space
_NOISE = {5: 1.5, 15: 1.0, 45: 0.6, END: 0.4}  # standard deviation of a score in points, by percent of the steps


@dataclass(frozen=True)
class Options:
    """Compare pruners on simulated trials."""

    pruners: tuple[str, ...] = ("none", "median", "hyperband", "asha")
    """Pruners to compare, as in `sweep.pruner`."""
    trials: int = 200
    """Trials of each sweep."""
    far: int = 25
    """Number of trials, the first ones, that are drawn from the whole space."""
    near: float = 0.7
    """Standard deviation of the worth of the other trials, in points."""
    repeats: int = 100
    """Number of sweeps with each pruner."""


def sweep(pruner: str, seed: int, options: Options) -> tuple[float, float]:
    """Simulate a sweep; return the share of all steps that its trials took, and the worth of the best-scored trial."""
    rng, settings = np.random.default_rng([5, seed]), SweepConfig(pruner=pruner)  # type: ignore[arg-type]
    standings: list[Standing] = []
    steps, finished = 0, [(-np.inf, -np.inf)]
    for number in range(options.trials):
        worth = -abs(_WORTH_SCALE * rng.normal()) if number < options.far else options.near * rng.normal()

        def look(percent: int, worth: float = worth) -> Look:
            return Look(worth + _NOISE[percent] * rng.normal())

        standing, stop = simulate_trial(Standing(number), look, standings, settings)
        if stop == END:
            end = look(END)
            standing = replace(standing, end=end)
            finished.append((end.r_mean, worth))
        steps += stop
        standings.append(standing)
    return steps / (END * options.trials), max(finished)[1]


def main(options: Options) -> int:
    """Simulate the sweeps, and print the table."""
    table = Table("pruner", "steps", "worth of the best", box=None, pad_edge=False)
    for pruner in options.pruners:
        shares, best = np.array([sweep(pruner, seed, options) for seed in range(options.repeats)]).T
        error = best.std(ddof=1) / len(best) ** 0.5
        table.add_row(pruner, f"{shares.mean():.0%}", f"{best.mean():.2f} ± {error:.2f}")
    terminal().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, use_underscores=True)))
