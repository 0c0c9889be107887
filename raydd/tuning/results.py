"""The result of a sweep: printed, saved as JSON, and saved as a settings file that `raydd run --config` takes."""

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.console import Group, RenderableType
from rich.table import Table

from raydd.cluster.worker_settings import without_passwords
from raydd.code_version import code_version
from raydd.config import Config
from raydd.protocols import trial_settings
from raydd.settings import to_yaml, with_settings
from raydd.store.files import write_whole
from raydd.terminal.text import brief, duration
from raydd.tuning import study as studies
from raydd.tuning.finals import Candidate, Finalist, rank_correlation
from raydd.tuning.redraws import draws_of, standard_error
from raydd.tuning.samplers import STARTUP_TRIALS

RESULT, SETTINGS = "result.json", "best.yaml"


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep. Scores are percent; a trial's number is the one its settings were first tried under."""

    name: str
    config: Config
    """The settings that all trials shared, as the user gave them."""
    objectives: tuple[str, ...]
    scores: Mapping[int, float]
    """Val r_mean of the complete trials."""
    stopped: Mapping[int, float]
    """Last val r_mean of the trials that were stopped as weak."""
    failed: Mapping[int, str]
    """Reasons of the trials that failed."""
    points: Mapping[int, tuple[float, ...]]
    """Values of the complete trials' objectives."""
    front: tuple[int, ...]
    """The Pareto front: complete trials that no other trial beats in every objective."""
    best: Candidate | None
    """The best trial on val, by its new draws if `sweep.drawn_again` asks for them; None if no trial is complete."""
    finalists: tuple[Finalist, ...]
    """The finalists, the best on val first."""
    cpu_seconds: Mapping[str, float]
    """CPU seconds of the trials' processes by part of the work, the largest first; empty if trials reported none."""
    failed_finals: Mapping[int, str] = field(default_factory=dict)
    """Reasons of the finals that failed."""

    @property
    def succeeded(self) -> bool:
        """Whether a trial ran to completion, and a final too if there were any."""
        return bool(self.settings) and (bool(self.finalists) or not self.failed_finals)

    @property
    def finished(self) -> int:
        """How many trials have ended."""
        return len(self.scores) + len(self.stopped) + len(self.failed)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The searched settings of the best finalist; without finals, of the best trial."""
        if self.finalists:
            return self.finalists[0].settings
        return self.best.settings if self.best else {}

    @property
    def rank_correlation(self) -> float | None:
        """How well the ranking of trials predicts that of finals: Spearman's; None for fewer than three finalists."""
        return rank_correlation(self.finalists)

    def write(self, folder: Path) -> None:
        """Write `result.json` and, if there is a winner, `best.yaml`."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "sweep": self.name,
            "objectives": self.objectives,
            "trials": {"complete": self.scores, "stopped": self.stopped, "failed": self.failed},
            "front": [{"trial": number, **self._objective_values(number)} for number in self.front],
            "best": self._best_as_json(),
            "finalists": [dataclasses.asdict(finalist) for finalist in self.finalists],
            "failed_finals": self.failed_finals,
            "rank_correlation": self.rank_correlation,
            "cpu_seconds": self.cpu_seconds,
            "settings": dict(self.settings),
            "raydd": code_version(),
        }
        write_whole(folder / RESULT, json.dumps(content, indent=1, ensure_ascii=False).encode())
        if self.settings:
            config = without_passwords(with_settings(self.config, self.settings))  # MLflow gets this folder too
            write_whole(folder / SETTINGS, to_yaml(config).encode())

    def tables(self) -> RenderableType:
        """Return the result as tables for the terminal."""
        parts: list[RenderableType] = []
        if len(self.objectives) > 1:
            parts.append(self._front_table())
        if self.finalists:
            parts.append(self._finals_table())
            if (correlation := self.rank_correlation) is not None:
                parts.append(
                    f"rank correlation of trials and finals on val: {correlation:.2f} ({len(self.finalists)} settings)"
                )
        if spent := sum(self.cpu_seconds.values()):
            shares = ", ".join(f"{part} {100 * seconds / spent:.0f} %" for part, seconds in self.cpu_seconds.items())
            parts.append(f"CPU time of the trials: {duration(spent)} ({shares})")
        if self.best:
            images = trial_settings(self.config).get("distill.images", self.config.distill.images)
            parts.append(f"best trial: {self.best.number}, val r_mean on {images} {self.best.in_words()}")
        if self.settings:
            parts.append(f"best settings: {brief(self.settings)}")
        return Group(*parts)

    def _best_as_json(self) -> dict[str, Any] | None:
        """Return the best trial for JSON, which has no NaN."""
        if self.best is None:
            return None
        error = self.best.error
        return {**dataclasses.asdict(self.best), "error": None if math.isnan(error) else error}

    def _objective_values(self, number: int) -> dict[str, float]:
        return dict(zip(self.objectives, self.points[number], strict=True))

    def _front_table(self) -> Table:
        table = _table("Pareto front", ("trial", *self.objectives))
        for number in self.front:
            table.add_row(str(number), *(f"{value:.6g}" for value in self.points[number]))
        return table

    def _finals_table(self) -> Table:
        images, seeds = self.config.distill.images, self.config.evaluate.seeds
        headings = ("trial", "as trial", "val r_mean", "test r_mean", "test IR@1", "test TR@1")
        table = _table(f"finals on {images}, {seeds} student seeds, percent", headings)
        for finalist in self.finalists:
            test_scores = [finalist.test[metric] for metric in ("r_mean", "IR@1", "TR@1")]
            cells = [f"{values['mean']:.1f} ± {values['std']:.1f}" for values in (finalist.val["r_mean"], *test_scores)]
            table.add_row(str(finalist.number), f"{finalist.cheap:.1f}", *cells)
        return table


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def conclude(
    study: optuna.Study, config: Config, finalists: Sequence[Finalist], failed_finals: Mapping[int, str]
) -> SweepResult:
    """Gather a sweep's result from its study and its finals."""
    objectives = config.sweep.objectives
    r_mean_index = objectives.index("r_mean")
    complete = studies.ranked(study, objectives)
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    failed = [trial for trial in studies.ended(study) if trial.state == TrialState.FAIL]
    return SweepResult(
        name=study.study_name,
        config=config,
        objectives=objectives,
        scores={studies.identity(trial): trial.values[r_mean_index] for trial in complete},
        stopped={studies.identity(trial): studies.last_score(trial) for trial in pruned},
        failed={studies.identity(trial): studies.reason(trial) for trial in failed},
        points={studies.identity(trial): tuple(trial.values) for trial in complete},
        front=tuple(studies.identity(trial) for trial in studies.pareto_front(study)),
        best=next(iter(candidates(study, objectives)), None),
        finalists=tuple(finalists),
        cpu_seconds=studies.cpu_seconds(study),
        failed_finals=failed_finals,
    )


def candidates(study: optuna.Study, objectives: Sequence[str]) -> list[Candidate]:
    """Return the complete trials: first those with new draws, by the mean of these; then the others, by val r_mean."""
    r_mean_index, draws = list(objectives).index("r_mean"), draws_of(study)
    scored_trials = [
        Candidate(
            (number := studies.identity(trial)),
            studies.settings(trial),
            trial.values[r_mean_index],
            tuple(draws.get(number, ())),
            standard_error(draws.get(number, ()), list(draws.values())),
        )
        for trial in studies.ranked(study, objectives)
    ]
    return sorted(scored_trials, key=lambda candidate: (not candidate.draws, -candidate.r_mean))


def importances(study: optuna.Study, objectives: Sequence[str]) -> dict[str, float]:
    """Return how much each setting decides whether a trial is among the best tenth (PED-ANOVA), the largest first.

    All values are zero if there are too few trials, or if nothing varies.
    """
    r_mean_index = list(objectives).index("r_mean")
    complete = studies.ranked(study, objectives)
    zeros = dict.fromkeys(complete[0].params if complete else (), 0.0)
    if len(complete) < STARTUP_TRIALS:
        return zeros
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that low targets count as good; the sign below takes care of that
        try:
            shares = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                target=lambda trial: -trial.values[r_mean_index],
            )
        except (ValueError, RuntimeError):  # no setting is shared by all trials, or all scores are equal
            return zeros
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
