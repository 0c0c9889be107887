"""Shows a running sweep as a table on a terminal.

It reads the sweep's study and MLflow only, so it can run on another machine than the sweep.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import optuna
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raydd.charts.trials import Trial, best_first
from raydd.errors import PlaceError
from raydd.report.search import objectives_of, trials_of
from raydd.terminal.console import visible
from raydd.terminal.text import brief, duration, sparkline
from raydd.tracking.history import History
from raydd.tuning import study as studies
from raydd.tuning.live import LOSS

_STYLES = {"complete": "green", "stopped": "dim", "failed": "red", "interrupted": "yellow", "running": "bold"}


def sweep_status(study: optuna.Study, mlflow: str, rows: int) -> RenderableType:
    """Return the sweep's headline, its best trial, and its latest trials with their loss as a sparkline.

    Args:
        study: the sweep's study.
        mlflow: address of the MLflow database or server that has the curves; `none`: show no curves.
        rows: number of trials to show, running trials first, then the latest.
    """
    trials = trials_of(study, objectives_of(study), {})
    # Epoch seconds, since Optuna's times are of the driver's time zone, and a trial may wait after its draw.
    start_times = {studies.identity(trial): trial.user_attrs.get(studies.BEGAN) for trial in studies.latest(study)}
    now = time.time()
    running = [trial for trial in trials if trial.state == "running"]
    latest = [*running, *(trial for trial in reversed(trials) if trial.state != "running")][:rows]
    losses, note = _losses(mlflow, studies.study_id(study), [trial.number for trial in latest])
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("trial", "state", "val r_mean", "loss", "step", "time", "settings"):
        table.add_column(heading, justify="left" if heading in ("state", "loss", "settings") else "right")
    for trial in latest:
        curve = losses.get(trial.number, [])
        began = start_times[trial.number]
        seconds = now - began if trial.state == "running" and began else trial.wall
        table.add_row(
            str(trial.number),
            Text(trial.state, style=_STYLES[trial.state]),
            f"{trial.r_mean:.2f}" if math.isfinite(trial.r_mean) else "",
            sparkline([value for _, value in curve]),
            str(curve[-1][0]) if curve else "",
            duration(seconds) if math.isfinite(seconds) else "",
            Text(visible(trial.reason or brief(trial.settings)), overflow="ellipsis", no_wrap=True),
        )
    return Group(_headline(study, trials), *_best_line(trials), *note, table)


def _losses(
    mlflow: str, study: str, numbers: Sequence[int]
) -> tuple[Mapping[int, Sequence[tuple[int, float]]], list[Text]]:
    """Return step and loss of each trial, and a note if MLflow does not answer: the study is shown all the same."""
    try:
        history = History(mlflow, study, numbers)
        return {number: history.curves(number, [LOSS]).get(LOSS, []) for number in numbers}, []
    except PlaceError as error:
        return {}, [Text(visible(f"no losses: {error}"), style="yellow")]


def _headline(study: optuna.Study, trials: Sequence[Trial]) -> Text:
    counts = Counter(trial.state for trial in trials)
    states = ", ".join(f"{counts[state]} {state}" for state in _STYLES if counts[state]) or "no trial yet"
    scores = sparkline([trial.r_mean for trial in trials if trial.state in ("complete", "stopped")], 32)
    return Text.assemble((visible(f"sweep {study.study_name} "), "bold"), states, f"  {scores}")


def _best_line(trials: Sequence[Trial]) -> list[Text]:
    return [
        Text(visible(f"best: trial {best.number}, r_mean {best.r_mean:.2f}; {brief(best.settings)}"), style="green")
        for best in best_first(trials)[:1]
    ]
