"""Estimates how long all trials of a sweep take together.

The time is hard to compute directly: most trials are stopped at a rung, settings differ in price, and trials share
experts. Before any trial has ended, the sweep is therefore simulated several times, with settings drawn from its space,
random scores, and the pruner's own rule. Once trials have ended, the estimate is based on their times.
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
from raydd.tuning.cheap_starts import CANDIDATES, cheap_start_count
from raydd.tuning.prices import END, Cost, Expert, Price, total
from raydd.tuning.pruning import Look, Standing, simulate_trial
from raydd.tuning.samplers import PER_SECOND

_PLAYS = 16
_PLAYED = 200  # most trials that are simulated; the time of further trials is extrapolated
_NOISE = 0.5  # standard deviation of a student's score at a rung, relative to that of the trials' final scores
_SPREAD = 8.0  # standard deviation of the simulated trials' final scores, in points of r_mean
_TAIL = 0.1  # probability that the time is below the low estimate, and that it is above the high one
_DEVIATIONS = statistics.NormalDist().inv_cdf(1 - _TAIL)


@dataclass(frozen=True)
class Expected:
    """Expected seconds: mean, low and high estimate; NaN if not known."""

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def __truediv__(self, at_once: int) -> Self:
        """Return the expected seconds if this many trials run at once."""
        return type(self)(self.mean / at_once, self.low / at_once, self.high / at_once)


def held_seconds(study: optuna.Study | None) -> list[float]:
    """Return for how many seconds each complete or stopped trial held its slot."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)) if study else []
    return [trial.user_attrs[studies.HELD] for trial in ended if studies.HELD in trial.user_attrs]


def estimate_from_held(held: Sequence[float], trials: int) -> Expected:
    """Estimate the seconds of a number of further trials, one after another, from the times of the ended ones."""
    mean = trials * statistics.fmean(held)
    # Combines the errors of the ended trials' mean and of the further trials' sum.
    error = statistics.stdev(held) * trials * math.sqrt(1 / len(held) + 1 / trials) if len(held) > 1 and trials else 0.0
    return Expected(mean, max(0.0, mean - _DEVIATIONS * error), mean + _DEVIATIONS * error)


def estimate_by_simulation(
    first: Sequence[Price], others: Sequence[Price], trials: int, sweep: SweepConfig
) -> Expected:
    """Estimate the seconds of one core for the trials of a new sweep, by simulating it.

    Args:
        first: prices of the first trials, in their order.
        others: prices of settings drawn from the space, which stand for the other trials.
        trials: number of trials.
        sweep: settings of the sweep; its sampler, pruner, rungs and objectives are read.
    """
    rng, simulated = np.random.default_rng(sweep.seed), min(trials, _PLAYED)
    sweep_seconds = []
    for play in range(_PLAYS):
        # It is unknown for how long a search by gain per second stays with cheap settings, so simulate both extremes:
        # only for the first trials, or to its end.
        cheap_count = 0 if sweep.sampler != PER_SECOND else cheap_start_count(sweep.trials) if play % 2 else simulated
        costs = _simulate(_draw_trials(first, others, simulated, cheap_count, rng), sweep, rng)
        expert_seconds = total(replace(cost, own=0.0) for cost in costs)
        sweep_seconds.append(expert_seconds + sum(cost.own for cost in costs) * trials / max(1, simulated))
    low, high = np.quantile(sweep_seconds, [_TAIL, 1 - _TAIL])
    return Expected(statistics.fmean(sweep_seconds), float(low), float(high))


def _draw_trials(
    first: Sequence[Price], others: Sequence[Price], trials: int, cheap_count: int, rng: np.random.Generator
) -> list[Price]:
    """Draw the trials of a simulated sweep: the first ones, cheap ones up to `cheap_count` trials, then random ones."""
    prices, trained = list(first[:trials]), dict[Expert, float]()

    def extra(price: Price) -> float:
        cost = price.to_begin()
        return cost.own + sum(max(0.0, seconds - trained.get(expert, 0.0)) for expert, seconds in cost.experts.items())

    for number in range(len(prices), trials):
        sampled = [others[index] for index in rng.integers(len(others), size=CANDIDATES if number < cheap_count else 1)]
        prices.append(min(sampled, key=extra))
        trained |= prices[-1].to_begin().experts
    return prices


def _simulate(prices: Sequence[Price], sweep: SweepConfig, rng: np.random.Generator) -> list[Cost]:
    """Return the cost of each trial in a simulated sweep, with random scores and the pruner's rule."""
    ended: list[Standing] = []
    costs: list[Cost] = []
    for number, price in enumerate(prices):
        worth = _SPREAD * rng.normal()

        def look(rung: int, price: Price = price, worth: float = worth) -> Look:
            students = worth + _SPREAD * _NOISE * rng.normal(size=max(1, sweep.rung_students))
            return Look(float(students.mean()), price.until(rung).own, students=tuple(students))

        standing, stop = simulate_trial(Standing(number), look, ended, sweep)
        costs.append(price.until(stop))
        ended.append(replace(standing, end=Look(worth, costs[-1].own)) if stop == END else standing)
    return costs
