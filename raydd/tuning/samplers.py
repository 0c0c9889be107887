"""Samplers: draw the settings of a sweep's next trial from the results of the study's trials."""

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
from raydd.tuning.neighbours import SECONDS, NeighbourSampler, SecondsOf

STARTUP_TRIALS = 7  # trials before a model draws: the first settings and running trials count, the others are random
CANDIDATES = 256  # candidates from which TPE chooses the next settings
PER_SECOND = "per-second"
_LONGEST = 3.0  # longest trial that per-second draws, in shares of the remaining time: two of three are stopped early
_RECENT = 24  # ended trials that tell how much of its predicted time a trial takes
MODELLED = 256  # most trials that a model is fitted to, since its cost grows with the cube of their number
_BEGUN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL)


def renew_sampler(
    study: optuna.Study,
    seed: int,
    name: str = "auto",
    *,
    seconds_of: SecondsOf | None = None,
    seconds_per_trial: float = 0.0,
) -> None:
    """Give the study a new sampler for its next trial, whose draws depend only on the seed and on the trial's place.

    If one sampler lived as long as its driver, a new driver would start its random sequence again and draw the same
    settings twice. Running trials count as start-up trials, so that eight trials at once are not eight random ones.

    Args:
        study: the sweep's study.
        seed: `sweep.seed`.
        name: `sweep.sampler`.
        seconds_of: predicts the seconds of a trial with the given settings, for the sampler per-second.
        seconds_per_trial: the sweep's remaining seconds divided among all trials still wanted; 0 without a time limit.

    Raises:
        ConfigError: there is no such sampler, or its package is not installed.
    """
    # Not the queued ones: taking one from the queue must change the seed, since it may leave settings to be drawn.
    begun = study.get_trials(deepcopy=False, states=_BEGUN)
    trial_count = sum(not studies.interrupted(trial) for trial in begun)
    draw_seed = int(np.random.SeedSequence([seed, trial_count]).generate_state(1)[0])
    make_sampler = find_sampler(name)
    if name == PER_SECOND:
        share, longest = 0.0, math.inf
        if seconds_per_trial:
            share = seconds_per_trial / pace(study)
            longest = min(_LONGEST * share, longest_affordable(study, seconds_per_trial))
        make_sampler = partial(_per_second, seconds_of=seconds_of, seconds_per_trial=share, max_seconds=longest)
    study.sampler = (
        RandomSampler(seed=draw_seed) if name in SAMPLERS and trial_count < STARTUP_TRIALS else make_sampler(draw_seed)
    )


def find_sampler(name: str) -> Callable[[int], BaseSampler]:
    """Return the function that makes a sampler from a seed.

    Args:
        name: one of `SAMPLERS`, or a user's own sampler as `module:NAME` or `FILE.py:NAME`: a function, or one of
            Optuna's classes, that takes `seed`.

    Raises:
        ConfigError: there is no such sampler, its code fails, or its package is not installed.
    """
    expected = "a function of the seed, as in def mine(seed): return optuna.samplers.QMCSampler(seed=seed)"
    if name in SAMPLERS:
        return SAMPLERS[name]
    make_sampler: Callable[..., Any] = guarded(
        find(name, SAMPLERS, "sweep.sampler", None, expected), name, "sweep.sampler"
    )
    return lambda seed: checked(make_sampler(seed=seed), BaseSampler, name, "sweep.sampler")


class WholeSpaceSampler(BaseSampler):
    """Lets a sampler that needs a fixed space draw in a space with conditional settings.

    All settings that any trial had are drawn together, and the space takes the settings that it asks for. If a trial
    lacks a setting, the sampler is shown the middle of the setting's range, so that it learns nothing from it. A trial
    that was stopped is shown with an estimate of its final score: its last score, plus the median gain of the complete
    trials from that rung to the end. A trial that diverged is shown as worse than all others, so that the sampler turns
    away from it.
    """

    def __init__(
        self,
        make_sampler: Callable[[int], BaseSampler | NeighbourSampler],
        seed: int,
        *,
        make_multi_objective: Callable[[int], BaseSampler] | None = None,
    ) -> None:
        """Wrap another sampler.

        Args:
            make_sampler: makes the wrapped sampler from a seed.
            seed: seed of its draws, and of settings that no trial had before.
            make_multi_objective: makes the sampler for a study with several objectives, if the sampler of
                `make_sampler` takes only one.
        """
        self._make_sampler = make_sampler
        self._make_multi_objective = make_multi_objective or make_sampler
        self._seed = seed
        self._independent_sampler = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all settings of the modelled trials with their widest ranges, except settings with only one value."""
        distributions: dict[str, BaseDistribution] = {}
        for modelled_trial in _modelled_trials(study, _begun_trials(study, trial)):
            for name, kind in modelled_trial.distributions.items():
                distributions[name] = _merge_ranges(distributions.get(name, kind), kind)
        return {name: distributions[name] for name in sorted(distributions) if not distributions[name].single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw all settings with the wrapped sampler, from the ended and the running trials."""
        if not search_space:
            return {}
        begun = _begun_trials(study, trial)
        trials = _fixed_space_trials(study, begun, search_space)
        sampler = (self._make_sampler if len(study.directions) == 1 else self._make_multi_objective)(self._seed)
        if isinstance(sampler, NeighbourSampler):  # draws from trials directly; a study would copy each of them
            asked = [{name: one.params[name] for name in search_space if name in one.params} for one in begun]
            return sampler.draw(trials, search_space, study.direction, tried=[params for params in asked if params])
        shown_study = optuna.create_study(directions=study.directions, sampler=sampler)
        shown_study.add_trials(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return shown_study.ask(search_space).params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a setting that no trial had before at random."""
        return self._independent_sampler.sample_independent(study, trial, param_name, param_distribution)


def _fixed_space_trials(
    study: optuna.Study, begun: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution]
) -> list[FrozenTrial]:
    """Return the modelled ones of the trials as if they were trials of a fixed space."""
    trials = _modelled_trials(study, begun)
    values = _shown_values(study, trials)
    shown_trials = []
    for trial in trials:
        is_shown_complete = trial.number in values
        if not is_shown_complete and (trial.state != TrialState.RUNNING or not trial.params):
            continue
        state = TrialState.COMPLETE if is_shown_complete else TrialState.RUNNING
        params = {name: trial.params.get(name, _middle_value(kind)) for name, kind in space.items()}
        user_attrs = {SECONDS: price} if (price := trial.user_attrs.get(studies.PRICE)) else {}
        shown_trials.append(
            create_trial(
                state=state,
                values=values.get(trial.number),
                params=params,
                distributions=dict(space),
                user_attrs=user_attrs,
            )
        )
    return shown_trials


def _shown_values(study: optuna.Study, trials: Sequence[FrozenTrial]) -> dict[int, Sequence[float]]:
    """Return the values with which trials that have ended are shown, by number.

    With several objectives, only complete trials have values.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    values: dict[int, Sequence[float]] = {trial.number: trial.values for trial in complete}
    if len(study.directions) > 1:
        return values
    for trial in trials:
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            values[trial.number] = [_estimate_final_value(trial, complete)]
    if values:
        worst, beyond = (min, -math.inf) if study.direction == StudyDirection.MAXIMIZE else (max, math.inf)
        below_worst = math.nextafter(worst(value for (value,) in values.values()), beyond)
        values |= {trial.number: [below_worst] for trial in trials if trial.state == TrialState.FAIL}
    return values


def _begun_trials(study: optuna.Study, current_trial: FrozenTrial) -> list[FrozenTrial]:
    """Return the other trials that have begun. Failed ones say nothing about their settings, unless they diverged."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False, states=_BEGUN)
        if trial.number != current_trial.number and studies.outcome(trial.state, studies.reason(trial)) != "fail"
    ]


def _modelled_trials(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
    """Return the trials that the model is fitted to: all of the given ones, or if too many, the best and the latest."""
    if len(trials) <= MODELLED:
        return trials
    best: list[FrozenTrial] = []
    if len(study.directions) == 1:
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = sorted(complete, key=lambda trial: -sign * (trial.value or 0.0))[: MODELLED // 2]
    best_numbers = {trial.number for trial in best}
    other_trials = [trial for trial in trials if trial.number not in best_numbers]
    return sorted([*best, *other_trials[len(best) - MODELLED :]], key=lambda trial: trial.number)


def _estimate_final_value(stopped: FrozenTrial, complete: Sequence[FrozenTrial]) -> float:
    rung = max(stopped.intermediate_values)
    gains = [
        trial.value - trial.intermediate_values[rung]
        for trial in complete
        if trial.value is not None and rung in trial.intermediate_values
    ]
    return stopped.intermediate_values[rung] + (statistics.median(gains) if gains else 0.0)


def pace(study: optuna.Study) -> float:
    """Return the median ratio of actual to predicted seconds over the ended trials; 1 if there are none."""
    ratios = []
    for attrs in _timed(study):
        report = attrs.get(studies.REPORT, {})
        if report.get("step"):
            ratios.append(attrs[studies.HELD] * report["steps"] / report["step"] / attrs[studies.PRICE])
    return statistics.median(ratios) if ratios else 1.0


def longest_affordable(study: optuna.Study, seconds_per_trial: float) -> float:
    """Return the predicted seconds of trials that would really take `seconds_per_trial` on average.

    Most trials are stopped early, so they take less time than predicted; the experts that they train take more.

    Args:
        study: the sweep's study, whose recently ended trials are taken as typical; without any, the result is infinite.
        seconds_per_trial: the sweep's remaining seconds divided among all trials still wanted.
    """
    recent = _timed(study)[-_RECENT:]
    held, price = (sum(attrs[name] for attrs in recent) for name in (studies.HELD, studies.PRICE))
    return seconds_per_trial * price / held if held else math.inf


def _timed(study: optuna.Study) -> list[Mapping[str, Any]]:
    """Return the user attributes of the ended trials whose predicted and actual seconds are known, oldest first."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [
        trial.user_attrs for trial in ended if trial.user_attrs.get(studies.PRICE) and studies.HELD in trial.user_attrs
    ]


def _middle_value(kind: BaseDistribution) -> Any:
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[0]
    assert isinstance(kind, FloatDistribution | IntDistribution)
    middle = math.sqrt(kind.low * kind.high) if kind.log else (kind.low + kind.high) / 2
    if kind.step is not None:
        middle = min(kind.high, kind.low + round((middle - kind.low) / kind.step) * kind.step)
    return round(middle) if isinstance(kind, IntDistribution) else middle


def _merge_ranges(first: BaseDistribution, second: BaseDistribution) -> BaseDistribution:
    """Return a range that contains two ranges of one setting, which differ if its bounds depend on other settings."""
    if isinstance(first, FloatDistribution | IntDistribution) and isinstance(second, type(first)):
        low, high = min(first.low, second.low), max(first.high, second.high)
        return type(first)(low, high, log=first.log, step=first.step)  # type: ignore[arg-type]
    return second


def _auto(seed: int) -> BaseSampler:
    """A Gaussian process among neighbours of the best trial; tpe with several objectives."""
    return WholeSpaceSampler(NeighbourSampler, seed, make_multi_objective=_tpe)


def _per_second(
    seed: int,
    seconds_of: SecondsOf | None = None,
    seconds_per_trial: float = 0.0,
    max_seconds: float = math.inf,
) -> BaseSampler:
    """As auto, but by gain per second of a trial, including the time to train the experts that it needs."""
    return WholeSpaceSampler(
        partial(NeighbourSampler, seconds_of=seconds_of, seconds_per_trial=seconds_per_trial, max_seconds=max_seconds),
        seed,
        make_multi_objective=_tpe,
    )


def _tpe(seed: int) -> BaseSampler:
    """Optuna's tree-structured Parzen estimator, with 256 candidates."""
    with warnings.catch_warnings():
        # group=True lets TPE model conditional settings jointly
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=1, n_ei_candidates=CANDIDATES, multivariate=True, group=True, constant_liar=True
        )


def _gp(seed: int) -> BaseSampler:
    """Optuna's Gaussian process over the whole space; a draw takes a second or more."""
    return WholeSpaceSampler(lambda draw_seed: optuna.samplers.GPSampler(seed=draw_seed, n_startup_trials=1), seed)


def _cmaes(seed: int) -> BaseSampler:
    """Optuna's CMA-ES, for long searches of numerical settings; needs the package cmaes."""
    if find_spec("cmaes") is None:
        raise ConfigError(
            "sweep.sampler cmaes needs a package that is not installed. Run `pip install cmaes`, or set it to auto."
        )
    # CMA-ES saves its state in the study's trials, so a new sampler continues it. TPE draws choices, which it cannot.
    return optuna.samplers.CmaEsSampler(
        seed=seed, n_startup_trials=1, independent_sampler=_tpe(seed), warn_independent_sampling=False
    )


def _random(seed: int) -> BaseSampler:
    """Draws each setting at random."""
    return RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "auto": _auto,
    PER_SECOND: _per_second,
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "random": _random,
}
