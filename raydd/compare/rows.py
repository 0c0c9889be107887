"""One row of the table of methods: its settings, its scores and its cost, made or taken from the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from raydd.config import Config
from raydd.distill.methods import find_method
from raydd.distill.selections import SELECTIONS
from raydd.evaluate.bootstrap import r_mean_interval
from raydd.evaluate.retrieval import scores_of_hits
from raydd.presets import PRESETS
from raydd.protocols import Workbench
from raydd.settings import with_settings
from raydd.stages.curves import curve_record, rise, val_curve
from raydd.stages.distilling import collapse_over_steps, load_synthetic, records_of
from raydd.stages.evaluating import hits_record, set_hits, set_of
from raydd.store import Record

FULL = "full"
_AS_PUBLISHED = {
    "students.rate": "published",
    "distill.fit_rates": False,
    "evaluate.choice": "best-on-split",
}
_OF_A_PRESET = ("distill.", "pixels.")  # its encoders and experts would make another table


@dataclass(frozen=True)
class RowPlan:
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
    def sets(self) -> int:
        """How many sets it has: full data is one."""
        return 1 if self.method == FULL else self.config.compare.sets

    @property
    def name(self) -> str:
        """What to call it in a table: a method of one's own without its folder."""
        method = Path(self.method).name
        return f"{method}, {self.variant}" if self.variant else method


@dataclass(frozen=True)
class MadeSet:
    """One of a row's sets: a distillation, the choice of one seed, or all real pairs."""

    number: int
    students: Sequence[Mapping[str, float]]
    """Each metric of each student in percent."""
    steps: int | None
    """Distillation steps; None where nothing is distilled."""
    seconds: float | None
    """Time of the distillation or the choice, without features and experts; None where nothing is chosen."""
    cpu_seconds: float | None
    """The same as CPU time; None too where an earlier version made the set, which did not measure it."""
    peak_bytes: int | None
    """Most memory that a process held meanwhile, torch and the encoders included."""
    stored_numbers: int
    """Of what a student trains on, a pixel's channel counted as one."""
    stored_bytes: int
    record: str
    """Folder of the synthetic set in the store; empty for real pairs."""
    collapse: Sequence[Mapping[str, float]] = ()
    """Collapse measures over the steps of the distillation, and the `step` of each; none of real pairs."""
    curve: Sequence[Mapping[str, float]] = ()
    """Val r_mean over the steps, see `raydd.stages.curves.val_curve`; none of real pairs."""
    hits: Int[NDArray, "S I 7"] = field(
        default_factory=lambda: np.zeros((0, 0, 7), np.int32), compare=False, repr=False
    )
    """What each student found, see `raydd.evaluate.retrieval.HITS`."""

    def mean(self, metric: str) -> float:
        """A metric's mean over the students."""
        return fmean(student[metric] for student in self.students)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    plan: RowPlan
    sets: Sequence[MadeSet]
    """Those that are made, by their numbers."""
    interval: tuple[float, float]
    """Of r_mean, by a bootstrap over sets, students and images."""

    @classmethod
    def of(cls, plan: RowPlan, sets: Sequence[MadeSet]) -> "Row":
        """The row of the sets that there are."""
        return cls(plan, sets, r_mean_interval([made.hits for made in sets]))

    @property
    def numbers(self) -> list[int]:
        """Of the sets that there are."""
        return [made.number for made in self.sets]

    def by_set(self, metric: str) -> tuple[float, ...]:
        """A metric in percent, set by set, each the mean of its students."""
        return tuple(made.mean(metric) for made in self.sets)

    def mean(self, metric: str) -> float:
        """A metric's mean over the sets, in percent."""
        return fmean(self.by_set(metric))

    def std(self, metric: str) -> float | None:
        """Its standard deviation over the sets; None for one set."""
        return stdev(self.by_set(metric)) if len(self.sets) > 1 else None

    @property
    def rises(self) -> list[float]:
        """How much val r_mean rose over the last quarter of the steps, set by set; of those that have a curve."""
        found = [rise(made.curve, made.steps) for made in self.sets if made.steps]
        return [value for value in found if value is not None]

    def cost(self, name: str) -> float | None:
        """Mean over the sets of a field of `MadeSet`; None where a set has none."""
        values = [getattr(made, name) for made in self.sets]
        return fmean(values) if None not in values else None


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


def _protocol_of(method: str) -> Mapping[str, Any]:
    """How the published code of a method scores it."""
    if method in SELECTIONS or method == FULL:
        return {}
    return find_method(PRESETS[method].settings["distill.method"] if method in PRESETS else method).protocol


def is_tuned(method: str) -> bool:
    """Whether trials are run for this row: a method that has a search space."""
    real_pairs_or_preset = method in SELECTIONS or method == FULL or method in PRESETS
    return not real_pairs_or_preset and bool(find_method(method).space)


def plan_of(config: Config, method: str, data: str, pairs: int, variant: str, extra: Mapping[str, Any]) -> RowPlan:
    """The row of a method at N synthetic pairs, with settings beside its own.

    Raises:
        ConfigError: the settings do not go together.
    """
    given = {**settings_of(method), **extra}
    if config.compare.as_published:
        given |= {**_AS_PUBLISHED, **_protocol_of(method)}
    budget = pairs + 1  # a learned similarity costs a pair; without one there is a pair more
    if method in SELECTIONS:
        rank = min(budget, config.distill.rank)  # which no selection reads, and no budget may be under
        given |= {"distill.pairs": budget, "distill.minibatch": 0, "distill.rank": rank}
        return RowPlan(method, "", data, budget, with_settings(config, given))
    if method == FULL:
        return RowPlan(method, "", data, 0, with_settings(config, given))
    learned = given.get("distill.similarity", config.distill.similarity) != "identity"
    count = given["distill.pairs"] = pairs if learned else budget
    given["distill.minibatch"] = min(count, int(given.get("distill.minibatch", config.distill.minibatch)))
    given["distill.rank"] = min(count, int(given.get("distill.rank", config.distill.rank)))
    return RowPlan(method, variant, data, budget, with_settings(config, given))


def is_made(plan: RowPlan, number: int, work: Workbench[Any]) -> bool:
    """Whether the store has what a set's students found, and its curve; its features must be there.

    `work` is the workbench of the row's settings.
    """
    checks = plan.config.compare.checks
    drawn = plan.kind != "synthetic" or not checks or curve_record(set_of(work, number), checks).complete
    return drawn and hits_record(work, plan.kind, number).complete


def make_set(plan: RowPlan, number: int, work: Workbench[Any]) -> MadeSet:
    """Make one of a row's sets, or read it if the store has it; `work` is the workbench of the row's settings."""
    checks = plan.config.compare.checks if plan.kind == "synthetic" else 0
    curve = val_curve(set_of(work, number), checks) if checks else []
    hits = set_hits(work, plan.kind, number)
    students = [scores_of_hits(own) for own in hits]
    if plan.kind == "synthetic":
        return replace(_distilled(set_of(work, number), number, students), curve=curve, hits=hits.numpy())
    cost: Mapping[str, Any] = {} if plan.kind == FULL else work.selection_cost(plan.kind, plan.pairs, number)
    return MadeSet(
        number,
        students,
        steps=None,
        seconds=cost.get("seconds"),
        cpu_seconds=cost.get("cpu_seconds"),
        peak_bytes=cost.get("peak_bytes"),
        stored_numbers=work.real_size(plan.pairs)[0],
        stored_bytes=work.real_size(plan.pairs)[1],
        record="",
        hits=hits.numpy(),
    )


def _distilled(work: Workbench[Any], number: int, students: Sequence[Mapping[str, float]]) -> MadeSet:
    records = records_of(work)
    facts, synthetic = [part.facts() for part in records], load_synthetic(records[-1])
    cpu = [part["cpu_seconds"] for part in facts if part.get("cpu_seconds") is not None]
    return MadeSet(
        number,
        students,
        steps=work.config.distill.steps,
        seconds=sum(part["seconds"] + part.get("preparing_seconds", 0.0) for part in facts),
        cpu_seconds=None if len(cpu) < len(facts) else sum(cpu),
        peak_bytes=max(part.get("peak_bytes", 0) for part in facts) or None,
        stored_numbers=synthetic.stored_numbers,
        stored_bytes=synthetic.stored_bytes,
        record=records[-1].folder,
        collapse=_collapse(records),
    )


def _collapse(records: Sequence[Record]) -> list[dict[str, float]]:
    """Collapse measures over the steps of all phases, counted through."""
    points, before = [], 0.0
    for record in records:
        points += [point | {"step": before + point["step"]} for point in collapse_over_steps(record)]
        before = points[-1]["step"] if points else 0.0
    return points


def _of_a_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name.startswith(_OF_A_PRESET)}
