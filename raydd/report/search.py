"""The parts of the page that show a search: its history, the importance of settings, and its cost."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from raydd.charts import sweeps as charts
from raydd.charts.chart import Chart, curves
from raydd.charts.trials import Trial, best_first, choices, front
from raydd.report.sets import MEASURES
from raydd.terminal.text import brief, duration
from raydd.tracking.history import History
from raydd.tuning import study as studies
from raydd.tuning.finals import Candidate
from raydd.tuning.lease import is_driven
from raydd.tuning.pruning import rung_forecasts
from raydd.tuning.results import candidates, importances

TABLE_ROWS = 50  # number of trials in the page's table
TRIALS_FOR_IMPORTANCE = 20  # complete trials: with fewer the best tenth is one trial, and importance is chance
CURVES = 6  # number of trials whose collapse measures are drawn over the steps
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


def sweep_parts(study: optuna.Study, objectives: Sequence[str], history: History) -> dict[str, Any]:
    """Return the page's fields that show a search; fast even with a thousand trials.

    Args:
        study: the sweep's study.
        objectives: names of the study's values.
        history: metrics that MLflow has of its trials.
    """
    trials = trials_of(study, objectives, history.last())
    complete = len(best_first(trials))
    enough_trials = complete >= TRIALS_FOR_IMPORTANCE
    shares = importances(study, objectives) if enough_trials else {}
    return {
        "history": charts.history(trials),
        "search_note": "" if enough_trials else _too_few_trials_note(complete),
        "rungs": [row for row in rung_forecasts(study, objectives) if row.correlation is not None],
        "importance": charts.importance(shares) if any(shares.values()) else None,
        "slices": charts.slices(study, objectives, shares),
        "parallel": charts.parallel(trials, shares),
        "fronts": [chart for cost in ("bytes", "seconds") if (chart := charts.pareto(trials, cost))],
        "choices": choices(trials),
        "trials": [_table_row(trial) for trial in best_first(trials)[:TABLE_ROWS]],
        "failures": _failure_rows(trials),
        "collapse": collapse_curves(trials, history),
        "cost": sweep_cost(trials),
        "facts": _sweep_facts(trials, candidates(study, objectives)),
    }


def trials_of(
    study: optuna.Study, objectives: Sequence[str], tracked: Mapping[int, Mapping[str, float]]
) -> list[Trial]:
    """Return the trials of a study by number, without those that ended only because of an interruption.

    Args:
        study: the sweep's study.
        objectives: names of the study's values, including r_mean.
        tracked: last metrics of each trial from MLflow, for metrics that are not objectives; may be empty.
    """
    unfinished_state = "running" if is_driven(study) else "interrupted"
    trials = [
        _chart_trial(trial, unfinished_state, objectives, tracked.get(studies.identity(trial), {}))
        for trial in studies.latest(study)
        if trial.state != TrialState.WAITING and not studies.interrupted(trial)
    ]
    return sorted(trials, key=lambda trial: trial.number)


def collapse_curves(trials: Sequence[Trial], history: History) -> list[Chart]:
    """Return a chart for each collapse measure over the steps of the best trials; none without curves in MLflow."""
    keys = [f"collapse/{name}" for name in MEASURES]
    curves_of_trials = {trial.number: history.curves(trial.number, keys) for trial in best_first(trials)[:CURVES]}
    measure_charts = []
    for key, (name, description) in zip(keys, MEASURES.items(), strict=True):
        lines = {
            f"trial {number}": trial_curves[key]
            for number, trial_curves in curves_of_trials.items()
            if len(trial_curves.get(key, ())) > 1
        }
        if lines:
            ends = ", ".join(f"{trial}: {points[-1][1]:.3f}" for trial, points in lines.items())
            title = name.replace("_", " ")
            measure_charts.append(
                curves(f"curve-{name}", title, lines, title, f"{description.capitalize()}. At the end, {ends}.")
            )
    return measure_charts


def sweep_cost(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """Return the cost of the search: name to value."""
    walls = [trial.wall for trial in trials if math.isfinite(trial.wall)]
    if not walls:
        return []
    stopped = [trial.wall for trial in trials if trial.state == "stopped" and math.isfinite(trial.wall)]
    cost = [
        ("all trials", duration(sum(walls))),
        ("a trial, median", duration(median(walls))),
    ]
    if stopped:
        cost.append(("spent on stopped trials", duration(sum(stopped))))
    for name, unit, scale in (("seconds", "s", 1.0), ("bytes", "kB", 1e-3)):
        if on_front := front(trials, name):
            value = getattr(on_front[-1], name) * scale
            cost.append((f"{name} of the best on the front", f"{value:.0f} {unit}"))
    return cost


def objectives_of(study: optuna.Study) -> tuple[str, ...]:
    """Return the names of a study's values, from the settings that its sweep was started with."""
    return tuple(studies.shared_settings(study).get("sweep.objectives", ("r_mean",)))


def _too_few_trials_note(complete: int) -> str:
    trials = "1 complete trial is" if complete == 1 else f"{complete} complete trials are"
    return f"{trials} too few to tell which settings matter. The page shows this with {TRIALS_FOR_IMPORTANCE} or more."


def _sweep_facts(trials: Sequence[Trial], best: Sequence[Candidate]) -> dict[str, str]:
    counts = Counter(trial.state for trial in trials)
    facts = {"trials": ", ".join(f"{counts[state]} {state}" for state in counts)}
    if best:
        facts["best trial"] = f"{best[0].number}, on val {best[0].in_words()}"
    return facts


def _table_row(trial: Trial) -> dict[str, Any]:
    def format_number(value: float, scale: float = 1.0) -> str:
        return f"{value * scale:.0f}" if math.isfinite(value) else ""

    return {
        "number": trial.number,
        "r_mean": f"{trial.r_mean:.2f}",
        "seconds": format_number(trial.seconds),
        "kilobytes": format_number(trial.bytes, 1e-3),
        "settings": brief(trial.settings),
    }


def _failure_rows(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    reasons = Counter(trial.reason for trial in trials if trial.state == "failed")
    return [
        {
            "reason": reason,
            "count": count,
            "numbers": ", ".join(
                str(trial.number) for trial in trials if trial.state == "failed" and trial.reason == reason
            ),
        }
        for reason, count in reasons.most_common()
    ]


def _chart_trial(
    trial: FrozenTrial, unfinished_state: str, objectives: Sequence[str], tracked: Mapping[str, float]
) -> Trial:
    values, report = dict(zip(objectives, trial.values or [], strict=False)), studies.report(trial)
    score = values.get("r_mean", report.r_mean)
    start_time, end_time = trial.datetime_start, trial.datetime_complete
    return Trial(
        number=studies.identity(trial),
        state=_STATES.get(trial.state, unfinished_state),
        settings=trial.user_attrs.get(studies.SETTINGS, trial.params),
        r_mean=score,
        seconds=values.get("seconds", tracked.get("seconds", math.nan)),
        bytes=values.get("bytes", tracked.get("bytes", math.nan)),
        wall=(end_time - start_time).total_seconds() if start_time and end_time else math.nan,
        reason=studies.reason(trial),
        record=report.record,
    )
