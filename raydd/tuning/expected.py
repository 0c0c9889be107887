"""How long the trials of a sweep are expected to take together.

Most trials are stopped at a rung, settings of one space differ in price, and trials share experts. So the sweep is
played some times: with draws of its space, made-up scores and the pruner's own rule. Once trials are over, they say it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import optuna
from optuna.trial import TrialState

from raydd.config import SweepConfig
from raydd.tuning import study as studies
from raydd.tuning.cheap_starts import CANDIDATES, cheap_starts
from raydd.tuning.prices import END, Cost, Expert, Price, total
from raydd.tuning.pruning import Look, Standing, up_the_rungs
from raydd.tuning.samplers import PER_SECOND

_PLAYS = 16
_PLAYED = 200  # trials at most; more are like these
_NOISE = 0.5  # of a student's score at a rung, in standard deviations of what the trials are worth
_SPREAD = 8.0  # points of r_mean by which the made-up trials differ, as a standard deviation
_TAIL = 0.1  # of what may come, on either side of what is told
_DEVIATIONS = statistics.NormalDist().inv_cdf(1 - _TAIL)


@dataclass(frozen=True)
class Expected:
    """Seconds; NaN where there is nothing to go by."""

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def __truediv__(self, at_once: int) -> Self:
        """The same with so many trials at once."""
        return type(self)(self.mean / at_once, self.low / at_once, self.high / at_once)


def held_seconds(study: optuna.Study | None) -> list[float]:
    """For how long each trial that came to its end or was stopped held its place."""
    over = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)) if study else []
    return [trial.user_attrs[studies.HELD] for trial in over if studies.HELD in trial.user_attrs]


def as_held(held: Sequence[float], trials: int) -> Expected:
    """Seconds of so many more trials, one after the other, as those took that are over."""
    mean = trials * statistics.fmean(held)
    # Of the mean of the old ones, and of the sum of the new ones.
    error = statistics.stdev(held) * trials * math.sqrt(1 / len(held) + 1 / trials) if len(held) > 1 and trials else 0.0
    return Expected(mean, max(0.0, mean - _DEVIATIONS * error), mean + _DEVIATIONS * error)


def as_played(first: Sequence[Price], others: Sequence[Price], trials: int, sweep: SweepConfig) -> Expected:
    """Seconds of one core for the trials of a sweep that has none yet.

    Args:
        first: prices of the first trials, in their order.
        others: prices of settings like which the others will be.
        trials: how many.
        sweep: its sampler, pruner, rungs and objectives.
    """
    rng, played = np.random.default_rng(sweep.seed), min(trials, _PLAYED)
    ends = []
    for play in range(_PLAYS):
        # Nobody knows for how long a search by gain per second stays with what is cheap: not at all, or to its end.
        cheap = 0 if sweep.sampler != PER_SECOND else cheap_starts(sweep.trials) if play % 2 else played
        costs = _play(_drawn(first, others, played, cheap, rng), sweep, rng)
        experts = total(replace(cost, own=0.0) for cost in costs)
        ends.append(experts + sum(cost.own for cost in costs) * trials / max(1, played))
    low, high = np.quantile(ends, [_TAIL, 1 - _TAIL])
    return Expected(statistics.fmean(ends), float(low), float(high))


def _drawn(
    first: Sequence[Price], others: Sequence[Price], trials: int, cheap: int, rng: np.random.Generator
) -> list[Price]:
    """Trials as a sweep may have them: the first ones, then random ones, or cheap ones until there are so many."""
    prices, made = list(first[:trials]), dict[Expert, float]()

    def extra(price: Price) -> float:
        begin = price.to_begin()
        return begin.own + sum(max(0.0, seconds - made.get(one, 0.0)) for one, seconds in begin.experts.items())

    for place in range(len(prices), trials):
        among = [others[at] for at in rng.integers(len(others), size=CANDIDATES if place < cheap else 1)]
        prices.append(min(among, key=extra))
        made |= prices[-1].to_begin().experts
    return prices


def _play(prices: Sequence[Price], sweep: SweepConfig, rng: np.random.Generator) -> list[Cost]:
    """What each trial costs in a made-up sweep, in which nobody knows which of them are good."""
    over: list[Standing] = []
    costs: list[Cost] = []
    for number, price in enumerate(prices):
        worth = _SPREAD * rng.normal()

        def look(rung: int, price: Price = price, worth: float = worth) -> Look:
            students = worth + _SPREAD * _NOISE * rng.normal(size=max(1, sweep.rung_students))
            return Look(float(students.mean()), price.until(rung).own, students=tuple(students))

        own, end = up_the_rungs(Standing(number), look, over, sweep)
        costs.append(price.until(end))
        over.append(replace(own, end=Look(worth, costs[-1].own)) if end == END else own)
    return costs
