"""One row of the table of methods: the scores and cost of its sets, computed or read from the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from raydd.compare.plans import FULL, RowPlan
from raydd.evaluate.bootstrap import r_mean_interval
from raydd.evaluate.retrieval import scores_of_hits
from raydd.protocols import Workbench
from raydd.stages.curves import curve_record, rise, val_curve
from raydd.stages.distilling import collapse_over_steps, load_synthetic, records_of
from raydd.stages.evaluating import hits_record, set_hits, set_of
from raydd.store import Record


@dataclass(frozen=True)
class MadeSet:
    """One of a row's sets: a distilled set, the real pairs that a selection chose with one seed, or all real pairs."""

    number: int
    students: Sequence[Mapping[str, float]]
    """Scores of each student in percent: metric to value."""
    steps: int | None
    """Distillation steps; None if nothing is distilled."""
    seconds: float | None
    """Time of the distillation or selection, without features, experts and the choice of start pairs; None for full
    data."""
    cpu_seconds: float | None
    """CPU time of the distillation or selection; None also for sets of an earlier version, which did not measure it."""
    peak_bytes: int | None
    """Peak memory of the process during this time, including torch and the encoders."""
    stored_numbers: int
    """How many numbers a student trains on; each channel of a pixel counts as one."""
    stored_bytes: int
    record: str
    """Folder of the synthetic set in the store; empty for real pairs."""
    collapse: Sequence[Mapping[str, float]] = ()
    """Collapse measures over the distillation steps, each with its `step`; empty for real pairs."""
    curve: Sequence[Mapping[str, float]] = ()
    """Val r_mean over the steps, see `raydd.stages.curves.val_curve`; empty for real pairs."""
    hits: Int[NDArray, "S I 7"] = field(
        default_factory=lambda: np.zeros((0, 0, 7), np.int32), compare=False, repr=False
    )
    """Hits of each student, see `raydd.evaluate.retrieval.HITS`."""

    def mean(self, metric: str) -> float:
        """Mean of a metric over the students."""
        return fmean(student[metric] for student in self.students)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    plan: RowPlan
    sets: Sequence[MadeSet]
    """The sets that are made so far, ordered by their numbers."""
    interval: tuple[float, float]
    """95 % interval of r_mean, by a bootstrap over sets, students and images."""

    @classmethod
    def of(cls, plan: RowPlan, sets: Sequence[MadeSet]) -> "Row":
        """Return the row with the sets that are made so far."""
        return cls(plan, sets, r_mean_interval([made_set.hits for made_set in sets]))

    @property
    def numbers(self) -> list[int]:
        """Numbers of the sets that are made so far."""
        return [made_set.number for made_set in self.sets]

    def by_set(self, metric: str) -> tuple[float, ...]:
        """Return a metric of each set in percent, the mean over its students."""
        return tuple(made_set.mean(metric) for made_set in self.sets)

    def mean(self, metric: str) -> float:
        """Mean of a metric over the sets, in percent."""
        return fmean(self.by_set(metric))

    def std(self, metric: str) -> float | None:
        """Standard deviation of a metric over the sets, in percentage points; None for one set."""
        return stdev(self.by_set(metric)) if len(self.sets) > 1 else None

    @property
    def rises(self) -> list[float]:
        """How much val r_mean rose over the last quarter of the steps, for each set that has a curve."""
        rises_by_set = [rise(made_set.curve, made_set.steps) for made_set in self.sets if made_set.steps]
        return [value for value in rises_by_set if value is not None]

    def cost(self, name: str) -> float | None:
        """Mean of a field of `MadeSet` over the sets; None if a set has no value."""
        values = [getattr(made_set, name) for made_set in self.sets]
        return fmean(values) if None not in values else None


def is_made(plan: RowPlan, number: int, work: Workbench[Any]) -> bool:
    """Whether the store has the hits of a set's students, and its curve.

    `work` is the workbench of the row's settings; its features must be in the store.
    """
    checks = plan.config.compare.checks
    has_curve = plan.kind != "synthetic" or not checks or curve_record(set_of(work, number), checks).complete
    return has_curve and hits_record(work, plan.kind, number).complete


def make_set(plan: RowPlan, number: int, work: Workbench[Any]) -> MadeSet:
    """Make one of a row's sets, or read it from the store; `work` is the workbench of the row's settings."""
    checks = plan.config.compare.checks if plan.kind == "synthetic" else 0
    curve = val_curve(set_of(work, number), checks) if checks else []
    hits = set_hits(work, plan.kind, number)
    students = [scores_of_hits(student_hits) for student_hits in hits]
    if plan.kind == "synthetic":
        return replace(_distilled_set(set_of(work, number), number, students), curve=curve, hits=hits.numpy())
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


def _distilled_set(work: Workbench[Any], number: int, students: Sequence[Mapping[str, float]]) -> MadeSet:
    records = records_of(work)
    facts, synthetic = [phase.facts() for phase in records], load_synthetic(records[-1])
    cpu_seconds = [phase["cpu_seconds"] for phase in facts if phase.get("cpu_seconds") is not None]
    return MadeSet(
        number,
        students,
        steps=work.config.distill.steps,
        seconds=sum(phase["seconds"] + phase.get("preparing_seconds", 0.0) for phase in facts),
        cpu_seconds=None if len(cpu_seconds) < len(facts) else sum(cpu_seconds),
        peak_bytes=max(phase.get("peak_bytes", 0) for phase in facts) or None,
        stored_numbers=synthetic.stored_numbers,
        stored_bytes=synthetic.stored_bytes,
        record=records[-1].folder,
        collapse=_collapse_points(records),
    )


def _collapse_points(records: Sequence[Record]) -> list[dict[str, float]]:
    """Return the collapse measures over the steps of all phases, with steps counted across phases.

    Where one phase ends and the next begins, the measures are those of the next.
    """
    points: dict[float, dict[str, float]] = {}
    for record in records:
        steps_before = max(points, default=0.0)
        points |= {steps_before + point["step"]: point for point in collapse_over_steps(record)}
    return [point | {"step": step} for step, point in points.items()]
