"""The sampler of short, noisy searches: a Gaussian process that chooses among neighbours of the best trial.

A sweep has some ten to a few hundred trials, a score with noise, and first settings that are good already. With so few
trials in so many dimensions a model knows little far from what was tried, so the next settings are sought near those of
the best trial: each neighbour changes some of them, by little or by more, and the one with the largest expected
improvement is taken (Jones et al. 1998, J. Global Optimization 13); or the one with the largest expected improvement
for each second that it takes (Snoek et al., NeurIPS 2012), whose time counts the less the longer nothing was gained, as
the cost cools down in Lee et al. (arXiv:2003.10870), and not at all below the time that each trial has if all that are
wanted share what is left. Settings that take several times that are not drawn: however few trials are stopped on their
way, all that are wanted come. `python -m bench.search` measures both beside Optuna's samplers.

What a trial takes is known beforehand, but not at once for all neighbours: the seconds of those that were drawn say
which are worth asking about.

Letters: n trials that are over, C neighbours.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from jaxtyping import Float
from numpy import ndarray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm, rankdata

from raydd.tuning.gaussian_process import Points, fitted

SecondsOf = Callable[[Mapping[str, Any]], float]
NEIGHBOURS = 2048
_CHANGED = (0.2, 0.4, 0.6)  # share of the settings that a neighbour changes
_STEPS = (0.05, 0.1, 0.2)  # standard deviation of a change, in ranges
_PRICED = 64  # neighbours to choose among whose seconds were asked for
_ASKED = 8 * _PRICED  # whose seconds are asked for at most, where most take too long
_LONGEST = 3.0  # times what each trial has: two of three are stopped on their way
_PATIENCE = 10  # trials without a gain after which time counts half as much, as an exponent
SECONDS = "seconds"  # attribute of a trial: what it was to take
OWN = "own"  # another: names of the settings that its space asked for; it has all of them if there is none


class NeighbourSampler(BaseSampler):
    """Draws the settings of one trial, by those that every trial has."""

    def __init__(self, seed: int, *, seconds_of: SecondsOf | None = None, share: float = 0.0) -> None:
        """Draw by a seed.

        Args:
            seed: of its draws.
            seconds_of: what a trial of some settings takes to its end, against which its gain is weighed; NaN where
                nobody knows. None where seconds do not count.
            share: seconds that a trial may take before they count; some times that is the most. 0 for no limit.
        """
        self._rng, self._alone = np.random.default_rng(seed), RandomSampler(seed=seed)
        self._seconds_of, self._share = seconds_of, share

    def infer_relative_search_space(
        self,
        study: optuna.Study,
        trial: FrozenTrial,  # noqa: ARG002 - Optuna's interface
    ) -> dict[str, BaseDistribution]:
        """The settings that all complete trials have."""
        return optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A setting without a model, at random."""
        return self._alone.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The neighbour that promises most."""
        others = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        return self.draw(others, search_space, study.direction)

    def draw(
        self, trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], direction: StudyDirection
    ) -> dict[str, Any]:
        """The neighbour that promises most and repeats no trial; none of fewer than two trials that are over.

        What agrees with a trial in all settings that its space asked for is that trial again: it would give the same
        result, whatever it has for settings that only other choices ask for.

        Args:
            trials: those that are over, and those that run, which are believed to end as expected; others count not.
            space: the settings to draw.
            direction: whether more or less is better.
        """
        trials = [one for one in trials if space.keys() <= one.params.keys()]
        over = [one for one in trials if one.state == TrialState.COMPLETE]
        if not space or len(over) < 2:
            return {}
        running = [one for one in trials if one.state == TrialState.RUNNING]
        sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
        values = normal_by_rank(sign * np.array([one.value for one in over]))
        points = _points([one.params for one in (*over, *running)], space)
        near = self._neighbours(points[np.full(NEIGHBOURS, np.argmax(values))], space)
        promise = expected_improvement(points, values, near)
        seconds, power = np.ones(len(near)), 0.0
        if self._seconds_of:
            seconds = expected_seconds(points, [one.user_attrs.get(SECONDS) for one in (*over, *running)], near)
            # Else a search that is stuck would go on for ever with trials that cost, and promise, next to nothing.
            power = 1 / (1 + (len(values) - 1 - int(np.argmax(values))) / _PATIENCE)
        order = np.lexsort((-promise / np.maximum(seconds, self._share) ** power, seconds > self._most))
        drawn = ((place, _settings(near[place], space)) for place in order.tolist())
        tried = [{name: one.params[name] for name in one.user_attrs.get(OWN, space)} for one in (*over, *running)]
        new = ((place, one) for place, one in drawn if not any(own.items() <= one.items() for own in tried))
        best = self._best_by_second(new, promise, seconds, power) if self._seconds_of else next(new, None)
        _, settings = best or (0, _settings(near[int(order[0])], space))  # of few choices all may be known
        return settings

    @property
    def _most(self) -> float:
        """Seconds that a trial may take at most, where there are to be so many in so much time."""
        return _LONGEST * self._share or math.inf

    def _best_by_second(
        self,
        new: Iterable[tuple[int, dict[str, Any]]],
        promise: Float[ndarray, "C"],
        seconds: Float[ndarray, "C"],
        power: float,
    ) -> tuple[int, dict[str, Any]] | None:
        """The best of the first neighbours by what they promise and really take; the quickest if all take too long.

        Args:
            new: neighbours and their settings, the best by what is expected of them first.
            promise: of each neighbour.
            seconds: about what each takes.
            power: of the seconds.
        """
        assert self._seconds_of is not None
        found, affordable, most = [], 0, self._most
        for place, settings in itertools.islice(new, _ASKED):
            known = self._seconds_of(settings)
            takes = float(seconds[place]) if math.isnan(known) else known
            worth = promise[place] / max(takes, self._share) ** power if takes <= most else -takes
            found.append(((takes <= most, worth), (place, settings)))
            affordable += takes <= most
            if affordable == _PRICED:
                break
        return max(found, key=lambda one: one[0])[1] if found else None

    def _neighbours(self, of: Points, space: Mapping[str, BaseDistribution]) -> Points:
        """A neighbour of each of these settings."""
        rng = self._rng
        share, step = rng.choice(_CHANGED, (NEIGHBOURS, 1)), rng.choice(_STEPS, (NEIGHBOURS, 1))
        moved = np.clip(of.numbers + step * rng.normal(size=of.numbers.shape), 0, 1)
        numbers = np.where(rng.random(moved.shape) < share, moved, of.numbers)
        counts = [len(kind.choices) for kind in space.values() if isinstance(kind, CategoricalDistribution)]
        # Half as often as numbers: a choice has no small step.
        other = rng.integers(np.zeros(len(counts), int), counts, (NEIGHBOURS, len(counts)))
        return Points(numbers, np.where(rng.random(other.shape) < share / 2, other, of.choices))


def normal_by_rank(values: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    """Where values of these ranks would lie in a normal distribution (Salinas et al., ICML 2020, arXiv:1909.13595).

    A setting out of its range takes twenty points, and what is left to gain are tenths: as they are, the bad trials
    would set the scale, and all the good ones would count as equal.
    """
    return norm.ppf((rankdata(values) - 0.5) / len(values))


def expected_improvement(points: Points, values: Float[ndarray, "n"], near: Points) -> Float[ndarray, "C"]:
    """E[max(f - f*, 0)] under the process; f* is its own mean's best at what was tried, since scores are noisy.

    Args:
        points: what was tried, n trials that are over, then those that run.
        values: of those that are over, as `normal_by_rank` gives them.
        near: the neighbours.
    """
    over, running = points[: len(values)], points[len(values) :]
    process = fitted(over, values)
    believed = np.append(values, process.expected(over, values, running)[0])
    mean, deviation = process.expected(points, believed, near)
    ahead = (mean - process.expected(points, believed, points)[0].max()) / deviation
    return deviation * (ahead * norm.cdf(ahead) + norm.pdf(ahead))


def expected_seconds(points: Points, seconds: Sequence[float | None], near: Points) -> Float[ndarray, "C"]:
    """About what a trial of each neighbour takes, from what those that were drawn were to take.

    Args:
        points: what was tried.
        seconds: of each, None where that is not known.
        near: the neighbours.
    """
    known = {row: math.log(one) for row, one in enumerate(seconds) if one}
    if not known:
        return np.ones(len(near))
    took, logs = points[list(known)], np.array(list(known.values()))
    mean, deviation = logs.mean(), logs.std() or 1.0
    scaled = (logs - mean) / deviation
    return np.exp(mean + deviation * fitted(took, scaled).expected(took, scaled, near)[0])


def _points(settings: list[dict[str, Any]], space: Mapping[str, BaseDistribution]) -> Points:
    numbers = [[_share(kind, one[name]) for name, kind in space.items() if _is_number(kind)] for one in settings]
    choices = [
        [kind.choices.index(one[name]) for name, kind in space.items() if isinstance(kind, CategoricalDistribution)]
        for one in settings
    ]
    return Points(np.array(numbers, float), np.array(choices, int))


def _settings(point: Points, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    numbers, choices = iter(point.numbers.tolist()), iter(point.choices.tolist())
    return {
        name: kind.choices[next(choices)] if isinstance(kind, CategoricalDistribution) else _at(kind, next(numbers))
        for name, kind in space.items()
    }


def _is_number(kind: BaseDistribution) -> bool:
    return not isinstance(kind, CategoricalDistribution)


def _share(kind: BaseDistribution, value: float) -> float:
    """Where in its range a number lies, 0 to 1."""
    assert isinstance(kind, FloatDistribution | IntDistribution)
    of = math.log if kind.log else float
    return (of(value) - of(kind.low)) / max(of(kind.high) - of(kind.low), 1e-12)


def _at(kind: BaseDistribution, share: float) -> float | int:
    """The number at a share of its range, one that the range has."""
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if kind.log:
        value = math.exp(math.log(kind.low) + share * (math.log(kind.high) - math.log(kind.low)))
    else:
        value = kind.low + share * (kind.high - kind.low)
    if kind.step is not None:
        value = kind.low + round((value - kind.low) / kind.step) * kind.step
    value = min(max(value, kind.low), kind.high)
    return int(value) if isinstance(kind, IntDistribution) else value
