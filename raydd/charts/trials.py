"""A sweep's trials as charts and tables show them: the best, those of a Pareto front, how each choice fared."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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
