"""One phase of a distillation: matching steps until the record is complete, interrupted at any time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from raydd.config import DistillConfig
from raydd.data.encoders import image_identity, text_identity
from raydd.distill.engine import Distillation, DistillPoint
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.memory import peak_bytes, reset_peak
from raydd.progress import Leave
from raydd.protocols import Workbench
from raydd.sets.provenance import Provenance, Upstream
from raydd.sets.read import load_synthetic
from raydd.sets.write import write_set
from raydd.stages.students import fit_rates
from raydd.store import Record

Points = list[dict[str, float]]
_STEPS, _COLLAPSE = "curve.", "collapse."  # prefixes of the columns


@dataclass
class Log:
    """The notes of one distillation."""

    steps: Points = field(default_factory=list)
    """Metrics of each step."""
    collapse: Points = field(default_factory=list)
    """Collapse measures, and the `step` after which they were taken."""

    def last_means(self, count: int) -> dict[str, float]:
        """Means of the metrics over the last so many steps."""
        last = self.steps[-count:] if count else []
        return {name: sum(step[name] for step in last) / len(last) for name in last[0]} if last else {}

    def means_before(self, step: int, every: int) -> Points:
        """Means of the metrics over each `every` steps that were done before `step`, and the `step` that ended them."""
        ends = range(every, step, every) if every else ()
        return [{"step": end, **Log(self.steps[end - every : end]).last_means(every)} for end in ends]

    def tensors(self) -> dict[str, Tensor]:
        """All notes, one tensor a column."""
        return _to_tensors(self.steps, _STEPS) | _to_tensors(self.collapse, _COLLAPSE)

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """The notes that `tensors` gave; tensors of other names are passed over."""
        return cls(_of_tensors(tensors, _STEPS), _of_tensors(tensors, _COLLAPSE))


def without_log(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that are no notes."""
    return {name: value for name, value in tensors.items() if not name.startswith((_STEPS, _COLLAPSE))}


def _to_tensors(points: Sequence[dict[str, float]], prefix: str) -> dict[str, Tensor]:
    names = points[0] if points else {}
    return {prefix + name: torch.tensor([point[name] for point in points], dtype=torch.float64) for name in names}


def _of_tensors(tensors: dict[str, Tensor], prefix: str) -> Points:
    columns = {name.removeprefix(prefix): value.tolist() for name, value in tensors.items() if name.startswith(prefix)}
    return [dict(zip(columns, point, strict=True)) for point in zip(*columns.values(), strict=True)]


LAST_GOOD = "last_good.safetensors"
CHECKPOINT = "checkpoint.safetensors"
CURVE = "curve.safetensors"


_COLLAPSE_POINTS = 10  # times that collapse is measured over the steps, beside the start


@dataclass(frozen=True)
class Phase:
    """A phase and what it needs of its surroundings."""

    work: Workbench[Any]
    record: Record
    settings: DistillConfig
    start: Callable[[], SyntheticSet]
    """The set to start from."""
    every: int
    """Steps between two points; 0 yields the last one alone."""
    total: int
    """Steps of all phases of the distillation."""
    before: int = 0
    """Steps of the phases before this one."""

    def point(
        self, step: int, metrics: dict[str, float], synthetic: SyntheticSet, collapse: Points, earlier: Points
    ) -> DistillPoint:
        """What a listener is told after so many steps of this phase."""
        collapse, earlier = (
            [note | {"step": self.before + note["step"]} for note in notes] for notes in (collapse, earlier)
        )
        return DistillPoint(self.before + step, self.total, metrics, synthetic, collapse, earlier)


def match(phase: Phase) -> Iterator[DistillPoint]:
    """Match trajectories until the record is complete, going on from its checkpoint.

    Raises:
        NonFiniteError: a loss or gradient became NaN or infinite. The set before that step stays in the folder.
    """
    record, settings, before = phase.record, phase.settings, phase.before
    if record.complete:
        log = Log.of_tensors(record.read_tensors(CURVE))
        earlier = log.means_before(settings.steps, phase.every)
        last = log.last_means(settings.steps - (int(earlier[-1]["step"]) if earlier else 0))
        yield phase.point(settings.steps, last, load_synthetic(record), log.collapse, earlier)
        return
    reset_peak(phase.work.device)
    began = time.perf_counter()
    distillation, log = _begin(phase)
    preparing = time.perf_counter() - began
    # After an interruption all notes once more: what was told before it may be lost.
    earlier, told = log.means_before(distillation.done + 1, phase.every), 0
    since = int(earlier[-1]["step"]) if earlier else 0
    if not distillation.done:
        _note_collapse(phase, distillation, log)
    while distillation.done < settings.steps:
        began = time.perf_counter()
        try:
            metrics = distillation.step()
        except NonFiniteError:
            record.write_tensors(LAST_GOOD, distillation.synthetic().tensors())
            raise
        log.steps.append(metrics | {"seconds": time.perf_counter() - began})
        _note_collapse(phase, distillation, log)
        try:
            phase.work.progress("distillation steps", before + distillation.done, phase.total)
        except Leave:
            record.write_tensors(CHECKPOINT, distillation.state() | log.tensors())
            raise
        if distillation.done == settings.steps:
            break
        if distillation.done % settings.checkpoint_every == 0:
            record.write_tensors(CHECKPOINT, distillation.state() | log.tensors())
        if phase.every and distillation.done % phase.every == 0:
            means = log.last_means(distillation.done - since)
            since = distillation.done
            yield phase.point(since, means, distillation.synthetic(), log.collapse[told:], earlier)
            told, earlier = len(log.collapse), []
    synthetic = _finish(phase, distillation.synthetic(), log, preparing)
    last = log.last_means(settings.steps - since)
    yield phase.point(settings.steps, last, synthetic, log.collapse[told:], earlier)


def _begin(phase: Phase) -> tuple[Distillation, Log]:
    """A distillation at its start or at its last checkpoint, and its notes so far."""
    distillation = phase.work.begin(phase.settings, phase.start())
    if not phase.record.has(CHECKPOINT):
        return distillation, Log()
    state = phase.record.read_tensors(CHECKPOINT)
    distillation.resume(without_log(state))
    return distillation, Log.of_tensors(state)


def _note_collapse(phase: Phase, distillation: Distillation, log: Log) -> None:
    """Measure collapse at the start, ten times on the way, and at the end."""
    step, steps = distillation.done, phase.settings.steps
    if step == steps or step % max(1, steps // _COLLAPSE_POINTS) == 0:
        log.collapse.append({"step": step, **phase.work.collapse(distillation.synthetic())})


def _finish(phase: Phase, last: SyntheticSet, log: Log, preparing: float) -> SyntheticSet:
    """Fit the learning rates, write the set and complete the record; `preparing` are the seconds of the start."""
    record, work = phase.record, phase.work
    synthetic, times = fit_rates(work, last) if phase.settings.fit_rates else (last, 1.0)
    record.write_tensors(CURVE, log.tensors())
    config, encoders = work.config, work.config.encoders
    made = Provenance.of(
        config,
        synthetic,
        data=work.data,
        identities=(image_identity(encoders), text_identity(encoders)),
        upstream=Upstream(experts=work.experts_record.fingerprint, features=work.source),
        width=work.width,
        times_learned_rates=times,
        seconds=sum(step["seconds"] for step in log.steps),
        preparing_seconds=preparing,
        peak_bytes=peak_bytes(work.device),
    )
    write_set(record, synthetic, made, work.captions.train.texts, work.data.train)
    record.remove(CHECKPOINT)
    return synthetic
