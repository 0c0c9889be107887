"""One row of the table of methods: its settings, its scores and its cost, made or taken from the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from raydd.config import Config
from raydd.distill.methods import find_method
from raydd.distill.selections import SELECTIONS
from raydd.evaluate.retrieval import Scores
from raydd.presets import PRESETS
from raydd.protocols import Workbench
from raydd.settings import with_settings
from raydd.stages.distilling import collapse_over_steps, load_synthetic, records_of
from raydd.stages.evaluating import full_scores, scores_record, selected_scores, synthetic_scores
from raydd.store import Record

FULL = "full"
_AS_PUBLISHED = {
    "students.rate": "published",
    "distill.fit_rates": False,
    "evaluate.choice": "best-on-split",
}
_OF_A_PRESET = ("distill.", "pixels.")  # its encoders and experts would make another table


@dataclass(frozen=True)
class Cell:
    """One row to make."""

    method: str
    """A selection, a method, a preset, or full."""
    variant: str
    """tuned, published settings, as given; empty for rows that have no settings."""
    data: str
    """Name of the data set."""
    pairs: int
    """The budget: real pairs of a selection, synthetic pairs and one for the similarity; 0 for full."""
    config: Config
    """All settings of this row."""

    @property
    def kind(self) -> str:
        """The row of `raydd.stages.evaluating` that this is."""
        return self.method if self.method in SELECTIONS or self.method == FULL else "synthetic"

    @property
    def name(self) -> str:
        """What to call it in a table: a method of one's own without its folder."""
        method = Path(self.method).name
        return f"{method}, {self.variant}" if self.variant else method


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    cell: Cell
    seeds: Mapping[str, tuple[float, ...]]
    """Each metric in percent, seed by seed."""
    seconds: float | None
    """Time of the distillation or the choice, without features and experts; None where nothing is chosen."""
    peak_bytes: int | None
    """Most memory that a process held meanwhile, torch and the encoders included."""
    stored_bytes: int
    """Size of what a student trains on."""
    record: str
    """Folder of the synthetic set in the store; empty for real pairs."""
    collapse: Sequence[Mapping[str, float]] = ()
    """Collapse measures over the steps of the distillation, and the `step` of each; none of real pairs."""


def settings_of(method: str) -> Mapping[str, Any]:
    """What a row sets: a method's settings, or a preset's without those that belong to the data.

    Raises:
        ConfigError: there is no selection, method or preset of that name.
    """
    if method in SELECTIONS or method == FULL:
        return {}
    if method in PRESETS:
        preset = PRESETS[method].settings
        return {**find_method(preset["distill.method"]).settings, **_of_a_preset(preset)}
    return {**find_method(method).settings, "distill.method": method}


def is_tuned(method: str) -> bool:
    """Whether trials are run for this row: a method that has a search space."""
    real_pairs_or_preset = method in SELECTIONS or method == FULL or method in PRESETS
    return not real_pairs_or_preset and bool(find_method(method).space)


def cell_of(config: Config, method: str, data: str, pairs: int, variant: str, extra: Mapping[str, Any]) -> Cell:
    """The row of a method at N synthetic pairs, with settings beside its own.

    Raises:
        ConfigError: the settings do not go together.
    """
    given = {**settings_of(method), **extra}
    if config.compare.as_published:
        given |= _AS_PUBLISHED
    if method in SELECTIONS:
        pairs, given = pairs + 1, {**given, "distill.pairs": pairs + 1, "distill.minibatch": 0}
        return Cell(method, "", data, pairs, with_settings(config, given))
    if method == FULL:
        return Cell(method, "", data, 0, with_settings(config, given))
    given["distill.pairs"] = pairs
    given["distill.minibatch"] = min(pairs, int(given.get("distill.minibatch", config.distill.minibatch)))
    given["distill.rank"] = min(pairs, int(given.get("distill.rank", config.distill.rank)))
    return Cell(method, variant, data, pairs + 1, with_settings(config, given))


def is_made(cell: Cell, work: Workbench[Any]) -> bool:
    """Whether the store has the row's scores; its features must be there. `work` is the workbench of its settings."""
    return scores_record(work, cell.kind).complete


def make_row(cell: Cell, work: Workbench[Any]) -> Row:
    """Make a row, or read it if the store has it; `work` is the workbench of its settings."""
    if cell.kind == "synthetic":
        return _distilled(cell, work)
    if cell.kind == FULL:
        return Row(cell, _by_metric(full_scores(work)), None, None, work.real_bytes(0), "")
    return _selected(cell, work)


def _distilled(cell: Cell, work: Workbench[Any]) -> Row:
    scores, records = synthetic_scores(work), records_of(work)
    facts = [part.facts() for part in records]
    return Row(
        cell,
        _by_metric(scores),
        sum(part["seconds"] + part.get("preparing_seconds", 0.0) for part in facts),
        max(part.get("peak_bytes", 0) for part in facts) or None,
        load_synthetic(records[-1]).stored_bytes,
        records[-1].folder,
        _collapse(records),
    )


def _selected(cell: Cell, work: Workbench[Any]) -> Row:
    scores = selected_scores(work, cell.kind)
    costs = [work.selection_cost(cell.kind, cell.pairs, seed) for seed in range(cell.config.evaluate.seeds)]
    taken = [cost for cost in costs if cost is not None]
    seconds = fmean(cost[0] for cost in taken) if taken else None
    peak = max((cost[1] for cost in taken), default=None)
    return Row(cell, _by_metric(scores), seconds, peak, work.real_bytes(cell.pairs), "")


def _by_metric(scores: Scores) -> dict[str, tuple[float, ...]]:
    return {metric: tuple(seed[metric] for seed in scores.seeds) for metric in scores.seeds[0]}


def _collapse(records: Sequence[Record]) -> list[dict[str, float]]:
    """Collapse measures over the steps of all phases, counted through."""
    points, before = [], 0.0
    for record in records:
        points += [point | {"step": before + point["step"]} for point in collapse_over_steps(record)]
        before = points[-1]["step"] if points else 0.0
    return points


def _of_a_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name.startswith(_OF_A_PRESET)}
