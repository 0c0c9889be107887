"""Samplers: what draws the settings of a sweep's next trial, from what the study's trials have shown."""

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from raydd.errors import ConfigError
from raydd.outside import checked, find, guarded
from raydd.tuning import study as studies
from raydd.tuning.neighbours import OWN, SECONDS, NeighbourSampler, SecondsOf

STARTUP_TRIALS = 7  # that a model of the trials needs: first settings and running ones count, the rest is random
CANDIDATES = 256  # among which TPE chooses the next settings
PER_SECOND = "per-second"
MODELLED = 256  # trials that a model is made of, whatever their number: its cost grows by their cube


def renew_sampler(
    study: optuna.Study, seed: int, name: str = "auto", *, seconds_of: SecondsOf | None = None, share: float = 0.0
) -> None:
    """Give the study the sampler of its next trial, whose draws depend on the seed and on that trial's place alone.

    A sampler that lived on would start its random sequence over when a driver is replaced, and draw the same settings
    twice. The start-up counts the trials that are running: eight at once are not eight random ones.

    Args:
        study: the sweep's.
        seed: `sweep.seed`.
        name: `sweep.sampler`.
        seconds_of: what a trial of some settings is said to take, which the sampler per-second weighs.
        share: seconds that each trial has if all that are wanted share what is left of the sweep's; 0 if it has no end.

    Raises:
        ConfigError: there is no such sampler, or its package is not installed.
    """
    asked = sum(not studies.interrupted(trial) for trial in study.get_trials(deepcopy=False))
    drawn = int(np.random.SeedSequence([seed, asked]).generate_state(1)[0])
    make = find_sampler(name)
    if name == PER_SECOND:
        make = partial(_per_second, seconds_of=seconds_of, share=share / pace(study) if share else 0.0)
    study.sampler = RandomSampler(seed=drawn) if name in SAMPLERS and asked < STARTUP_TRIALS else make(drawn)


def find_sampler(name: str) -> Callable[[int], BaseSampler]:
    """What makes a sampler of a seed.

    Args:
        name: one of `SAMPLERS`, or a user's own as `module:NAME` or `FILE.py:NAME`: a function, or a class of Optuna's,
            that takes `seed`.

    Raises:
        ConfigError: there is no such sampler, its code fails, or its package is not installed.
    """
    wanted = "a function of the seed, as in def mine(seed): return optuna.samplers.QMCSampler(seed=seed)"
    if name in SAMPLERS:
        return SAMPLERS[name]
    own: Callable[..., Any] = guarded(find(name, SAMPLERS, "sweep.sampler", None, wanted), name, "sweep.sampler")
    return lambda seed: checked(own(seed=seed), BaseSampler, name, "sweep.sampler")


class WholeSpaceSampler(BaseSampler):
    """Lets a sampler of fixed spaces draw in one with conditional settings.

    All settings that any trial had are drawn together, and the space takes those that it asks for. A trial that lacks
    one is shown to the sampler with the middle of its range, so that nothing is learned from it. Trials that were
    stopped are shown with the value that they were on the way to: their last score, and what a trial gained on the
    median from there to its end.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        seed: int,
        *,
        otherwise: Callable[[int], BaseSampler] | None = None,
    ) -> None:
        """Draw with another sampler.

        Args:
            make: gives that sampler of a seed.
            seed: of its draws, and of a setting that no trial had before.
            otherwise: gives the sampler of a study with several objectives, if `make`'s takes one alone.
        """
        self._make, self._several, self._seed = make, otherwise or make, seed
        self._alone = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All settings that modelled trials had, each in its widest range; those of one value are no choice."""
        found: dict[str, BaseDistribution] = {}
        for one in _modelled(study, trial):
            for name, kind in one.distributions.items():
                found[name] = _widest(found.get(name, kind), kind)
        return {name: found[name] for name in sorted(found) if not found[name].single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw all settings, from the trials that are over and those that are running."""
        if not search_space:
            return {}
        trials = _shown(study, trial, search_space)
        sampler = (self._make if len(study.directions) == 1 else self._several)(self._seed)
        if isinstance(sampler, NeighbourSampler):  # takes no study, which would be made with a copy of each trial
            return sampler.draw(trials, search_space, study.direction)
        shown = optuna.create_study(directions=study.directions, sampler=sampler)
        shown.add_trials(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return shown.ask(search_space).params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A setting that no trial had before, at random."""
        return self._alone.sample_independent(study, trial, param_name, param_distribution)


def _shown(study: optuna.Study, asking: FrozenTrial, space: Mapping[str, BaseDistribution]) -> list[FrozenTrial]:
    """The trials as one of a fixed space would have them."""
    trials = _modelled(study, asking)
    complete = [one for one in trials if one.state == TrialState.COMPLETE]
    shown = []
    for one in trials:
        values = one.values if one.state == TrialState.COMPLETE else None
        if one.state == TrialState.PRUNED:
            if len(study.directions) > 1 or not one.intermediate_values:
                continue
            values = [_end_of(one, complete)]
        if one.state == TrialState.RUNNING and not one.params:
            continue
        state = TrialState.RUNNING if values is None else TrialState.COMPLETE
        params = {name: one.params.get(name, _middle(kind)) for name, kind in space.items()}
        known: dict[str, Any] = {OWN: [name for name in space if name in one.params]}
        known |= {SECONDS: price} if (price := one.user_attrs.get(studies.PRICE)) else {}
        shown.append(
            create_trial(state=state, values=values, params=params, distributions=dict(space), user_attrs=known)
        )
    return shown


def _modelled(study: optuna.Study, asking: FrozenTrial) -> list[FrozenTrial]:
    """The trials that a model is made of: all that tell something, and of very many the best and the latest."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    trials = [one for one in study.get_trials(deepcopy=False, states=states) if one.number != asking.number]
    if len(trials) <= MODELLED:
        return trials
    best: list[FrozenTrial] = []
    if len(study.directions) == 1:
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        complete = [one for one in trials if one.state == TrialState.COMPLETE]
        best = sorted(complete, key=lambda one: -sign * (one.value or 0.0))[: MODELLED // 2]
    kept = {one.number for one in best}
    others = [one for one in trials if one.number not in kept]
    return sorted([*best, *others[len(best) - MODELLED :]], key=lambda one: one.number)


def _end_of(stopped: FrozenTrial, complete: Sequence[FrozenTrial]) -> float:
    rung = max(stopped.intermediate_values)
    gains = [
        one.value - one.intermediate_values[rung]
        for one in complete
        if one.value is not None and rung in one.intermediate_values
    ]
    return stopped.intermediate_values[rung] + (statistics.median(gains) if gains else 0.0)


def pace(study: optuna.Study) -> float:
    """Seconds that trials really take for one that they were said to: the median of those that are over."""
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        known = trial.user_attrs
        price, report = known.get(studies.PRICE), known.get(studies.REPORT, {})
        if price and report.get("step") and studies.HELD in known:
            found.append(known[studies.HELD] * report["steps"] / report["step"] / price)
    return statistics.median(found) if found else 1.0


def _middle(kind: BaseDistribution) -> Any:
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[0]
    assert isinstance(kind, FloatDistribution | IntDistribution)
    middle = math.sqrt(kind.low * kind.high) if kind.log else (kind.low + kind.high) / 2
    if kind.step is not None:
        middle = min(kind.high, kind.low + round((middle - kind.low) / kind.step) * kind.step)
    return round(middle) if isinstance(kind, IntDistribution) else middle


def _widest(one: BaseDistribution, other: BaseDistribution) -> BaseDistribution:
    """A range that holds two of one setting's: a space may suggest a number up to another one that it suggested."""
    if isinstance(one, FloatDistribution | IntDistribution) and isinstance(other, type(one)):
        low, high = min(one.low, other.low), max(one.high, other.high)
        return type(one)(low, high, log=one.log, step=one.step)  # type: ignore[arg-type]
    return other


def _auto(seed: int) -> BaseSampler:
    """A Gaussian process among neighbours of the best trial; tpe with several objectives."""
    return WholeSpaceSampler(NeighbourSampler, seed, otherwise=_tpe)


def _per_second(seed: int, seconds_of: SecondsOf | None = None, share: float = 0.0) -> BaseSampler:
    """As auto, but by gain for each second that a trial takes, with the experts that it makes."""
    return WholeSpaceSampler(partial(NeighbourSampler, seconds_of=seconds_of, share=share), seed, otherwise=_tpe)


def _tpe(seed: int) -> BaseSampler:
    """Optuna's tree-structured Parzen estimator, with 256 candidates."""
    with warnings.catch_warnings():
        # group: what lets conditional settings be modelled jointly
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=1, n_ei_candidates=CANDIDATES, multivariate=True, group=True, constant_liar=True
        )


def _gp(seed: int) -> BaseSampler:
    """Optuna's Gaussian process over the whole space; a second or more for a draw."""
    return WholeSpaceSampler(lambda drawn: optuna.samplers.GPSampler(seed=drawn, n_startup_trials=1), seed)


def _cmaes(seed: int) -> BaseSampler:
    """Optuna's CMA-ES, for long searches of numbers; needs the package cmaes."""
    if find_spec("cmaes") is None:
        raise ConfigError(
            "sweep.sampler cmaes needs a package that is not here. Run `pip install cmaes`, or take auto."
        )
    # It keeps its state in the study's trials, so that a new one goes on; choices, which it cannot draw, come from TPE.
    return optuna.samplers.CmaEsSampler(
        seed=seed, n_startup_trials=1, independent_sampler=_tpe(seed), warn_independent_sampling=False
    )


def _random(seed: int) -> BaseSampler:
    """Each setting at random."""
    return RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "auto": _auto,
    PER_SECOND: _per_second,
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "random": _random,
}
