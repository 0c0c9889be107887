"""What a study says of its trials, in the report's words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from raydd.tuning import study as studies
from raydd.tuning.lease import is_driven

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep."""

    number: int
    """The number that its settings were first tried under."""
    state: str
    """complete, stopped, failed, running, or interrupted: it runs no more, and the same sweep will run it again."""
    settings: Mapping[str, Any]
    r_mean: float
    """Val r_mean in percent: at the end, or when it was stopped; NaN if there is none."""
    seconds: float
    """Seconds of its distillation; NaN if nothing says."""
    bytes: float
    """Size of its synthetic set; NaN if nothing says."""
    wall: float
    """Seconds from its start to its end, waiting for experts included; NaN where it has none."""
    reason: str
    """Why it failed; empty if it did not."""
    record: str
    """Folder of its synthetic set in the store; empty if there is none."""


def trials_of(
    study: optuna.Study, objectives: Sequence[str], tracked: Mapping[int, Mapping[str, float]]
) -> list[Trial]:
    """The trials of a study by number, without those that only an interruption ended.

    Args:
        study: the sweep's.
        objectives: names of the study's values, r_mean among them.
        tracked: last metrics of each trial as MLflow has them, for what is no objective; may be empty.
    """
    unfinished = "running" if is_driven(study) else "interrupted"
    trials = [
        _trial(trial, unfinished, objectives, tracked.get(studies.identity(trial), {}))
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING and not studies.interrupted(trial)
    ]
    return sorted(trials, key=lambda trial: trial.number)


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """The complete trials, the best val r_mean first; of equal ones the earlier."""
    return sorted((trial for trial in trials if trial.state == "complete"), key=lambda one: (-one.r_mean, one.number))


def front(trials: Iterable[Trial], cost: str) -> list[Trial]:
    """The complete trials that no other one beats in both r_mean and a cost (seconds or bytes), the cheapest first."""
    on_front: list[Trial] = []
    priced = [trial for trial in trials if trial.state == "complete" and math.isfinite(getattr(trial, cost))]
    for trial in sorted(priced, key=lambda one: (getattr(one, cost), -one.r_mean)):
        if not on_front or trial.r_mean > on_front[-1].r_mean:
            on_front.append(trial)
    return on_front


def choices(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """How each choice of each categorical setting fared: number of trials, best and median val r_mean.

    A sweep over methods is a choice of `distill.method` among these.
    """
    complete = best_first(trials)
    rows = []
    for name in sorted({name for trial in complete for name in trial.settings}):
        values = {str(trial.settings[name]) for trial in complete if name in trial.settings}
        words = all(isinstance(trial.settings.get(name, ""), str | bool) for trial in complete)
        if not words or not 2 <= len(values) <= 12:
            continue
        for value in values:
            scores = [trial.r_mean for trial in complete if str(trial.settings.get(name)) == value]
            median = scores[len(scores) // 2]
            rows.append({"setting": name, "value": value, "trials": len(scores), "best": scores[0], "median": median})
    return sorted(rows, key=lambda row: (row["setting"], -row["best"]))


def _trial(trial: FrozenTrial, unfinished: str, objectives: Sequence[str], tracked: Mapping[str, float]) -> Trial:
    values, report = dict(zip(objectives, trial.values or [], strict=False)), studies.report(trial)
    score = values.get("r_mean", report.r_mean)
    begun, ended = trial.datetime_start, trial.datetime_complete
    return Trial(
        number=studies.identity(trial),
        state=_STATES.get(trial.state, unfinished),
        settings=trial.user_attrs.get(studies.SETTINGS, trial.params),
        r_mean=score,
        seconds=values.get("seconds", tracked.get("seconds", math.nan)),
        bytes=values.get("bytes", tracked.get("bytes", math.nan)),
        wall=(ended - begun).total_seconds() if begun and ended else math.nan,
        reason=studies.reason(trial),
        record=report.record,
    )
