"""The sampler for short, noisy searches: a Gaussian process that chooses among neighbours of the best trial.

A sweep has about ten to a few hundred trials, noisy scores, and first settings that are already good. With so few
trials in so many dimensions, a model knows little far from the settings that were tried. The sampler therefore looks
near the best trial: it makes many neighbours, each of which changes some of the best trial's settings by a small or a
larger step. It then draws one of them, in one of two ways:

- The neighbour with the largest expected improvement (Jones et al. 1998, J. Global Optimization 13).
- The neighbour with the largest expected improvement per second (Snoek et al., NeurIPS 2012). Time counts less the
  longer no trial has improved on the best, like the cost cooling of Lee et al. (arXiv:2003.10870). If the sweep has a
  time limit, the share of a trial is the remaining time divided among all trials still wanted. Differences in time
  below this share do not count, and settings that take longer than the sweep can afford are not drawn
  (`raydd/tuning/samplers.py`). So the sweep runs all trials that are wanted, even if the pruner stops few of them.

`python -m bench.search` compares both with Optuna's samplers.

The seconds of a trial are predicted from its settings, which is too slow for every neighbour. A second Gaussian
process, fitted to the predicted seconds of the trials so far, selects the neighbours that are worth a prediction.

Letters: n finished trials, C neighbours.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm, rankdata

from raydd.tuning.gaussian_process import Points, fitted

SecondsOf = Callable[[Mapping[str, Any]], float]
NEIGHBOURS = 2048
_CHANGED = (0.2, 0.4, 0.6)  # fraction of the settings that a neighbour changes
_STEPS = (0.05, 0.1, 0.2)  # standard deviation of a change, as a fraction of the setting's range
_PRICED = 64  # affordable neighbours whose seconds are predicted, to choose one of them
_ASKED = 8 * _PRICED  # neighbours whose seconds are predicted at most, if most of them take too long
_PATIENCE = 10  # trials without a gain after which the exponent of time is halved
SECONDS = "seconds"  # attribute of a trial: its predicted seconds


class NeighbourSampler:
    """Draws the settings of one trial. `raydd.tuning.samplers.WholeSpaceSampler` shows it the trials of a study."""

    def __init__(
        self,
        seed: int,
        *,
        seconds_of: SecondsOf | None = None,
        seconds_per_trial: float = 0.0,
        max_seconds: float = math.inf,
    ) -> None:
        """Create the sampler.

        Args:
            seed: seed of the draws.
            seconds_of: predicts the seconds that a trial of the given settings takes to complete; NaN if unknown.
                None: do not weigh gain against time.
            seconds_per_trial: seconds below which a trial's time does not count.
            max_seconds: seconds above which a trial is not drawn, unless all neighbours take longer.
        """
        self._rng = np.random.default_rng(seed)
        self._seconds_of, self._seconds_per_trial, self._max_seconds = seconds_of, seconds_per_trial, max_seconds

    def draw(
        self,
        trials: Sequence[FrozenTrial],
        space: Mapping[str, BaseDistribution],
        direction: StudyDirection,
        *,
        tried: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Return the best neighbour that repeats no trial. With fewer than two complete trials, return no settings.

        The best neighbour has the largest expected improvement, or the largest per second. A neighbour repeats a trial
        if it agrees with it in all settings that the trial's space asked for: settings that are asked for only with
        other choices do not change the result.

        Args:
            trials: complete trials, and running ones, which are assumed to score as the model expects; each with all
                settings of the space.
            space: the settings to draw.
            direction: whether a higher or a lower value is better.
            tried: the settings that each trial's space asked for; also of trials that are too many to be modelled.
        """
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if len(complete) < 2:
            return {}
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
        values = normal_by_rank(sign * np.array([trial.value for trial in complete]))
        points = _to_points([trial.params for trial in (*complete, *running)], space)
        neighbours = self._draw_neighbours(points[np.full(NEIGHBOURS, np.argmax(values))], space)
        improvement = expected_improvement(points, values, neighbours)
        seconds, exponent = np.ones(len(neighbours)), 0.0
        if self._seconds_of:
            seconds = expected_seconds(
                points, [trial.user_attrs.get(SECONDS) for trial in (*complete, *running)], neighbours
            )
            # Otherwise a search that is stuck would go on drawing trials that cost, and gain, almost nothing.
            exponent = 1 / (1 + (len(values) - 1 - int(np.argmax(values))) / _PATIENCE)
        order = np.lexsort(
            (-improvement / np.maximum(seconds, self._seconds_per_trial) ** exponent, seconds > self._max_seconds)
        )
        ranked = ((index, _to_settings(neighbours[index], space)) for index in order.tolist())
        untried = (
            (index, candidate)
            for index, candidate in ranked
            if not any(params.items() <= candidate.items() for params in tried)
        )
        best = (
            self._best_by_second(untried, improvement, seconds, exponent) if self._seconds_of else next(untried, None)
        )
        # In a small space, all neighbours may have been tried.
        _, settings = best or (0, _to_settings(neighbours[int(order[0])], space))
        return settings

    def _best_by_second(
        self,
        untried: Iterable[tuple[int, dict[str, Any]]],
        improvement: Float[ndarray, "C"],
        seconds: Float[ndarray, "C"],
        exponent: float,
    ) -> tuple[int, dict[str, Any]] | None:
        """Return the neighbour with the largest expected improvement per predicted second.

        Only the first neighbours are compared. If all of them take too long, the quickest is returned. None if there
        is no neighbour.

        Args:
            untried: indices and settings of neighbours, sorted with the best by estimated seconds first.
            improvement: expected improvement of each neighbour.
            seconds: estimated seconds of each neighbour, used where no prediction is known.
            exponent: exponent of the seconds.
        """
        assert self._seconds_of is not None
        scored, affordable, limit = [], 0, self._max_seconds
        for index, settings in itertools.islice(untried, _ASKED):
            predicted = self._seconds_of(settings)
            duration = float(seconds[index]) if math.isnan(predicted) else predicted
            score = (
                improvement[index] / max(duration, self._seconds_per_trial) ** exponent
                if duration <= limit
                else -duration
            )
            scored.append(((duration <= limit, score), (index, settings)))
            affordable += duration <= limit
            if affordable == _PRICED:
                break
        return max(scored, key=lambda entry: entry[0])[1] if scored else None

    def _draw_neighbours(self, points: Points, space: Mapping[str, BaseDistribution]) -> Points:
        """Return a random neighbour of each of the given points."""
        rng = self._rng
        share, step = rng.choice(_CHANGED, (NEIGHBOURS, 1)), rng.choice(_STEPS, (NEIGHBOURS, 1))
        moved = np.clip(points.numbers + step * rng.normal(size=points.numbers.shape), 0, 1)
        numbers = np.where(rng.random(moved.shape) < share, moved, points.numbers)
        counts = [len(kind.choices) for kind in space.values() if isinstance(kind, CategoricalDistribution)]
        # Choices change half as often as numbers, since a choice has no small step.
        other_choices = rng.integers(np.zeros(len(counts), int), counts, (NEIGHBOURS, len(counts)))
        return Points(numbers, np.where(rng.random(other_choices.shape) < share / 2, other_choices, points.choices))


def normal_by_rank(values: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    """Map values to normal quantiles by their ranks (Salinas et al., ICML 2020, arXiv:1909.13595).

    One bad setting costs twenty points, while the gains still to be made are tenths of a point. Without this mapping,
    the bad trials would set the scale and all good trials would look equal.
    """
    return norm.ppf((rankdata(values) - 0.5) / len(values))


def expected_improvement(points: Points, values: Float[ndarray, "n"], neighbours: Points) -> Float[ndarray, "C"]:
    """Expected improvement E[max(f - f*, 0)] of each neighbour under the Gaussian process.

    f* is the best mean of the process over all tried settings, not the best score, since scores are noisy.

    Args:
        points: settings of the n complete trials, then those of the running trials.
        values: values of the complete trials, from `normal_by_rank`.
        neighbours: settings of the C neighbours.
    """
    complete, running = points[: len(values)], points[len(values) :]
    process = fitted(complete, values)
    imputed_values = np.append(values, process.predict(complete, values, running)[0])
    mean, deviation = process.predict(points, imputed_values, neighbours)
    z = (mean - process.predict(points, imputed_values, points)[0].max()) / deviation
    return deviation * (z * norm.cdf(z) + norm.pdf(z))


def expected_seconds(points: Points, seconds: Sequence[float | None], neighbours: Points) -> Float[ndarray, "C"]:
    """Estimate the seconds of each neighbour from the predicted seconds of the trials so far.

    Args:
        points: settings of the trials.
        seconds: predicted seconds of each trial; None if unknown.
        neighbours: settings of the C neighbours.
    """
    log_seconds = {row: math.log(value) for row, value in enumerate(seconds) if value}
    if not log_seconds:
        return np.ones(len(neighbours))
    priced_points, logs = points[list(log_seconds)], np.array(list(log_seconds.values()))
    mean, deviation = logs.mean(), logs.std() or 1.0
    scaled = (logs - mean) / deviation
    return np.exp(mean + deviation * fitted(priced_points, scaled).predict(priced_points, scaled, neighbours)[0])


def _to_points(settings: list[dict[str, Any]], space: Mapping[str, BaseDistribution]) -> Points:
    numbers = [
        [_to_fraction(kind, params[name]) for name, kind in space.items() if _is_number(kind)] for params in settings
    ]
    choices = [
        [kind.choices.index(params[name]) for name, kind in space.items() if isinstance(kind, CategoricalDistribution)]
        for params in settings
    ]
    return Points(np.array(numbers, float), np.array(choices, int))


def _to_settings(point: Points, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    numbers, choices = iter(point.numbers.tolist()), iter(point.choices.tolist())
    return {
        name: kind.choices[next(choices)]
        if isinstance(kind, CategoricalDistribution)
        else _from_fraction(kind, next(numbers))
        for name, kind in space.items()
    }


def _is_number(kind: BaseDistribution) -> bool:
    return not isinstance(kind, CategoricalDistribution)


def _to_fraction(kind: BaseDistribution, value: float) -> float:
    """Return where a number lies in its range, 0 to 1."""
    assert isinstance(kind, FloatDistribution | IntDistribution)
    scale = math.log if kind.log else float
    return (scale(value) - scale(kind.low)) / max(scale(kind.high) - scale(kind.low), 1e-12)


def _from_fraction(kind: BaseDistribution, fraction: float) -> float | int:
    """Return the number at a given fraction of a range, rounded to the range's step."""
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if kind.log:
        value = math.exp(math.log(kind.low) + fraction * (math.log(kind.high) - math.log(kind.low)))
    else:
        value = kind.low + fraction * (kind.high - kind.low)
    if kind.step is not None:
        value = kind.low + round((value - kind.low) / kind.step) * kind.step
    value = min(max(value, kind.low), kind.high)
    return int(value) if isinstance(kind, IntDistribution) else value
