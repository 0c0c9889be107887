"""Trials of a sweep as its charts, pages and tables show them: the best, the Pareto front, scores by choice."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep."""

    number: int
    """Number of the trial that first tried these settings."""
    state: str
    """complete, stopped, failed, running or interrupted.

    An interrupted trial no longer runs; the same sweep will run its settings again.
    """
    settings: Mapping[str, Any]
    r_mean: float
    """Val r_mean in percent, at the end or when the trial was stopped; NaN if it was never scored."""
    seconds: float
    """Seconds of its distillation; NaN if unknown."""
    bytes: float
    """Size of its synthetic set; NaN if unknown."""
    wall: float
    """Seconds from its start to its end, including the time that it waited for experts; NaN if unknown."""
    reason: str
    """Why the trial failed; empty if it did not."""
    record: str
    """Folder of its synthetic set in the store; empty if it has none."""


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Return the complete trials, highest val r_mean first; of trials with equal r_mean, the earlier one first."""
    return sorted(
        (trial for trial in trials if trial.state == "complete"), key=lambda trial: (-trial.r_mean, trial.number)
    )


def front(trials: Iterable[Trial], cost: str) -> list[Trial]:
    """Return the Pareto front of r_mean and a cost, cheapest trial first.

    These are the complete trials that no other trial beats in both r_mean and the cost (seconds or bytes).
    """
    on_front: list[Trial] = []
    priced = [trial for trial in trials if trial.state == "complete" and math.isfinite(getattr(trial, cost))]
    for trial in sorted(priced, key=lambda candidate: (getattr(candidate, cost), -candidate.r_mean)):
        if not on_front or trial.r_mean > on_front[-1].r_mean:
            on_front.append(trial)
    return on_front


def choices(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return for each choice of each categorical setting its number of trials, best and median val r_mean.

    In a sweep over methods, `distill.method` is one of these settings.
    """
    complete = best_first(trials)
    rows = []
    for name in sorted({name for trial in complete for name in trial.settings}):
        values = {str(trial.settings[name]) for trial in complete if name in trial.settings}
        categorical = all(isinstance(trial.settings.get(name, ""), str | bool) for trial in complete)
        if not categorical or not 2 <= len(values) <= 12 or len(complete) < 2 * len(values):
            continue
        for value in values:
            scores = [trial.r_mean for trial in complete if str(trial.settings.get(name)) == value]
            best, median_score = scores[0], median(scores)
            rows.append({"setting": name, "value": value, "trials": len(scores), "best": best, "median": median_score})
    return sorted(rows, key=lambda row: (row["setting"], -row["best"]))
