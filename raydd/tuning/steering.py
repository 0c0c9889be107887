"""Steers a sweep from outside: queues trials by hand, starts from another sweep's best trials, ends a sweep early.

All commands go through the study, so the sweep's driver can be steered from another terminal or another machine.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raydd.config import Config, SweepConfig
from raydd.errors import ConfigError, nearest
from raydd.settings import flatten, read_yaml
from raydd.terminal.text import count_of
from raydd.tuning import study as studies
from raydd.tuning.lease import driving, is_driven
from raydd.tuning.slot_time import Stay, slot_seconds
from search_spaces import Space

Order = Literal["stop", "pause", "go-on"]
WARM = 5  # how many of another sweep's best trials are queued, if sweep.warm_start gives no number

_ORDER, _WARMED = "order", "warm start"


@dataclass(frozen=True)
class TakenSettings:
    """Given settings, sorted by whether a search space can take them."""

    taken: Mapping[str, Any]
    """Settings that the space searches, with values within its ranges."""
    outside: Mapping[str, str]
    """Settings with values outside the space's ranges; the range of each, in words."""
    unknown: tuple[str, ...]
    """Settings that the space does not ask for in combination with the others."""


class _GivenSettingsSampler(optuna.samplers.RandomSampler):
    """Uses the given value of a setting if it lies in the range, and draws all other settings at random."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(seed=0)
        self._settings = settings

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of one setting."""
        if param_name in self._settings and _contains(param_distribution, self._settings[param_name]):
            return self._settings[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


def fit(space: Space, settings: Mapping[str, Any]) -> TakenSettings:
    """Return which of the given settings a space can take. Settings that are not given are drawn."""
    trial = optuna.create_study(sampler=_GivenSettingsSampler(settings)).ask()
    constants = {name: value for name, value in space.settings(trial).items() if name not in trial.params}
    kinds = {name: kind for name, kind in trial.distributions.items() if name in settings}
    outside = {name: _range_in_words(kind) for name, kind in kinds.items() if not _contains(kind, settings[name])}
    taken = {name: settings[name] for name in kinds if name not in outside}
    for name, value in constants.items():
        if settings.get(name, value) != value:
            outside[name] = f"{value!r} alone"
    return TakenSettings(
        taken, outside, tuple(name for name in settings if name not in kinds and name not in constants)
    )


def open_sweep(config: Config, space: Space) -> optuna.Study:
    """Open the sweep's study. A new one begins with the trials of `sweep.warm_start`, then the space's first settings.

    Raises:
        ConfigError: for the reasons of `studies.open_study` and `warm_start`.
    """
    address = config.place.study

    def warm_settings() -> list[Mapping[str, Any]]:
        _, trials = warm_trials(None, config.sweep.warm_start, address)
        return [fit(space, studies.settings(trial)).taken for trial in trials]

    return studies.open_study(config, space, address, exclusive=driving, before_first=warm_settings)


def warm_start(study: optuna.Study, space: Space, source: str, address: str) -> list[str]:
    """Queue the best trials of another sweep in the same database. Does so once in a sweep.

    In a new study `open_sweep` has queued them already, before all others.

    Args:
        study: the sweep's study.
        space: the sweep's search space.
        source: `sweep.warm_start`, STUDY or STUDY:K.
        address: address of the database.

    Returns:
        Messages for the user: what was queued, and which settings were left out.

    Raises:
        ConfigError: there is no such sweep, or it has no complete trial.
    """
    name, trials = warm_trials(study, source, address)
    if not trials:
        return []
    left_out: dict[str, None] = {}
    waiting = len(studies.waiting(study))
    for trial in trials:
        fitted = fit(space, studies.settings(trial))
        left_out |= dict.fromkeys((*fitted.outside, *fitted.unknown))
        study.enqueue_trial(dict(fitted.taken), skip_if_exists=True)
    study.set_user_attr(_WARMED, source)
    turn = turn_after(waiting) if len(studies.waiting(study)) > waiting else "first"
    messages = [f"warm start: {name}'s best trials are tried {turn}, {len(trials)} of them"]
    if left_out:
        messages.append(f"left out, since the space {space.name} does not search them so: {', '.join(left_out)}")
    return messages


def warm_trials(study: optuna.Study | None, source: str, address: str) -> tuple[str, list[optuna.trial.FrozenTrial]]:
    """Return the name and the best trials of the sweep that `sweep.warm_start` names.

    No trials if `sweep.warm_start` is empty, or if its trials were queued already.

    Raises:
        ConfigError: for the reasons of `warm_start`.
    """
    if not source or (study and study.user_attrs.get(_WARMED) == source):
        return "", []
    name, colon, count = source.rpartition(":")
    name, limit = (name, int(count)) if colon and count.isdigit() else (source, WARM)
    try:
        other_study = studies.load_study(name, address)
    except ConfigError as error:
        raise ConfigError(f"sweep.warm_start is {source!r}: {error}") from error
    objectives = studies.shared_settings(other_study).get("sweep.objectives", ["r_mean"])
    trials = studies.ranked(other_study, objectives)[:limit]
    if not trials:
        raise ConfigError(f"sweep.warm_start: the sweep {name!r} has no complete trial. Leave it out, or run it first.")
    return name, trials


def turn_after(waiting: int) -> str:
    """Return in words when trials are tried that were queued behind so many others."""
    return f"after {count_of(waiting, 'trial')} queued before" if waiting else "next"


def enqueue(study: optuna.Study, space: Space, config: Config, file: Path) -> int:
    """Queue the trials of a YAML file, a list of dotted settings. Settings that a trial leaves open are drawn.

    Returns:
        How many trials were queued.

    Raises:
        ConfigError: the file cannot be read, or has a setting or a value that the space does not search.
    """
    trials = [(number, settings, fit(space, settings)) for number, settings in enumerate(_read_trials(file), start=1)]
    for number, settings, fitted in trials:
        for name, kind in fitted.outside.items():
            raise ConfigError(
                f"{file}: {name} of trial {number} is {settings[name]!r}, but the space {space.name} searches {kind}. "
                "Change the value, or search a wider space."
            )
        for name in fitted.unknown:
            advice = nearest(name, flatten(config)) if name not in flatten(config) else "Leave it out."
            raise ConfigError(
                f"{file}: trial {number} sets {name}, which the space {space.name} does not search there. {advice}"
            )
    for _, settings, fitted in trials:
        study.enqueue_trial({name: settings[name] for name in fitted.taken})
    return len(trials)


def give_order(study: optuna.Study, order: Order) -> None:
    """Order the driver of a sweep to stop, to pause or to go on. The driver reads the order before each new trial.

    Raises:
        ConfigError: no process runs this sweep.
    """
    if not is_driven(study):
        raise ConfigError(f"The sweep {study.study_name!r} is not running. `raydd sweep` continues it.")
    study.set_user_attr(_ORDER, order)


def forget_orders(study: optuna.Study) -> None:
    """Clear the orders that an earlier driver was given."""
    study.set_user_attr(_ORDER, "go-on")


def order_of(study: optuna.Study, sweep: SweepConfig) -> Order:
    """Return the order for the driver: the last one given, or stop if a setting ends the sweep early."""
    order: Order = study.user_attrs.get(_ORDER, "go-on")
    return "stop" if order != "stop" and why_enough(study, sweep) else order


def why_enough(study: optuna.Study, sweep: SweepConfig) -> str:
    """Return why no more trials start, if a setting ends the sweep early; empty while trials may start.

    Args:
        study: the sweep's study.
        sweep: settings of the sweep, with `gpus` and `together` resolved.
    """
    if sweep.plateau and trials_without_gain(study, sweep) >= sweep.plateau:
        return f"{sweep.plateau} trials in a row gained less than {sweep.plateau_gain:g} (sweep.plateau)"
    if sweep.gpu_hours and (hours := slot_hours(study) * sweep.gpu_share) >= sweep.gpu_hours:
        return f"the trials took {hours:.2f} GPU-hours (sweep.gpu_hours)"
    if sweep.cost and (cost := slot_hours(study) * sweep.price) >= sweep.cost:
        return f"the trials cost {cost:.2f} (sweep.cost)"
    return ""


def slot_hours(study: optuna.Study) -> float:
    """Return the hours for which slots were held, including by running, failed and restarted trials.

    Trials that share a slot at the same time count once. A trial that waits for a machine, or was drawn in advance,
    holds no slot yet. A trial whose driver was killed counts until its last report: the time after that is not known.
    """
    return slot_seconds(_stay(trial) for trial in study.get_trials(deepcopy=False)) / 3600


def _stay(trial: optuna.trial.FrozenTrial) -> Stay:
    attrs = trial.user_attrs
    slot, began = attrs.get(studies.SLOT, ""), attrs.get(studies.BEGAN)
    if trial.state == optuna.trial.TrialState.RUNNING and began:
        return Stay(slot, began, time.time())
    return Stay(slot, began or 0.0, (began or 0.0) + attrs.get(studies.HELD, 0.0))


def trials_without_gain(study: optuna.Study, sweep: SweepConfig) -> int:
    """Count the trials that ended since val r_mean last rose by more than `sweep.plateau_gain` above the best.

    Trials that failed for a machine are left out: they say nothing about their settings.
    """
    r_mean_index = sweep.objectives.index("r_mean")
    ended = [trial for trial in studies.ended(study) if studies.outcome(trial.state, studies.reason(trial)) != "fail"]
    best, stale_trials = float("-inf"), 0
    for trial in sorted(ended, key=lambda trial: (trial.datetime_complete, trial.number)):
        score = trial.values[r_mean_index] if trial.state == optuna.trial.TrialState.COMPLETE else float("-inf")
        improved = score > best + sweep.plateau_gain
        best, stale_trials = (score, 0) if improved else (best, stale_trials + 1)
    return stale_trials


def _read_trials(file: Path) -> Sequence[Mapping[str, Any]]:
    trials = read_yaml(file, "file of trials")
    if not isinstance(trials, list) or not trials or not all(isinstance(trial, Mapping) for trial in trials):
        raise ConfigError(
            f"{file} must be a list of trials, each with dotted settings, such as `- distill.image_lr: 0.1`."
        )
    return trials


def _contains(kind: BaseDistribution, value: Any) -> bool:
    if isinstance(kind, CategoricalDistribution):
        return value in kind.choices
    assert isinstance(kind, FloatDistribution | IntDistribution)
    numbers = int if isinstance(kind, IntDistribution) else int | float
    return isinstance(value, numbers) and not isinstance(value, bool) and kind.low <= value <= kind.high


def _range_in_words(kind: BaseDistribution) -> str:
    if isinstance(kind, CategoricalDistribution):
        return f"one of {', '.join(map(str, kind.choices))}"
    assert isinstance(kind, FloatDistribution | IntDistribution)
    return f"{kind.low:g} to {kind.high:g}"
