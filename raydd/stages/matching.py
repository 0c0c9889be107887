"""One phase of a distillation, whatever is trained in it: matching steps until the record is complete, interrupted at
any time."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from raydd.config import Config, DistillConfig
from raydd.data import CaptionRows, DataSet
from raydd.distill.engine import DistillPoint
from raydd.distill.learned import LearnedSet
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.memory import peak_bytes, reset_peak
from raydd.progress import Leave, Progress
from raydd.sets.provenance import Provenance, Upstream
from raydd.sets.read import load_synthetic
from raydd.sets.write import write_set
from raydd.stages.collapsing import is_due
from raydd.stages.curves import Log, Points, without_log
from raydd.stages.rates import fit_rates
from raydd.store import Record

LAST_GOOD = "last_good.safetensors"
CHECKPOINT = "checkpoint.safetensors"
CURVE = "curve.safetensors"


@dataclass(frozen=True)
class Phase:
    """A phase and what it needs of its surroundings."""

    record: Record
    config: Config
    """All settings that make the record's set."""
    settings: DistillConfig
    """Those of this phase alone."""
    begin: Callable[[], LearnedSet]
    """The distillation at its start."""
    collapse: Callable[[SyntheticSet], dict[str, float]]
    """Collapse measures of a set."""
    score: Callable[[SyntheticSet], float]
    """Val r_mean of one student of a set, by which the rates are fitted at the end."""
    data: DataSet
    captions: CaptionRows
    """Features of the training captions."""
    identities: tuple[str, str]
    """Of the image encoder and of the text encoder."""
    upstream: Upstream
    """The records that the set is made from."""
    width: int
    """Of the space that images and texts share."""
    device: str
    progress: Progress
    every: int
    """Steps between two points; 0 yields the last one alone."""
    total: int
    """Steps of all phases of the distillation."""
    before: int = 0
    """Steps of the phases before this one."""

    def point(self, step: int, metrics: dict[str, float], synthetic: SyntheticSet, collapse: Points) -> DistillPoint:
        """What a listener is told after so many steps of this phase."""
        noted = [note | {"step": self.before + note["step"]} for note in collapse]
        return DistillPoint(self.before + step, self.total, metrics, synthetic, noted)


def match(phase: Phase) -> Iterator[DistillPoint]:
    """Match trajectories until the record is complete, going on from its checkpoint.

    Raises:
        NonFiniteError: a loss or gradient became NaN or infinite. The set before that step stays in the folder.
    """
    record, settings, before = phase.record, phase.settings, phase.before
    if record.complete:
        log = Log.of_tensors(record.read_tensors(CURVE))
        yield phase.point(settings.steps, log.last_means(1), load_synthetic(record), log.collapse)
        return
    reset_peak(phase.device)
    began = time.perf_counter()
    distillation, log = _begin(phase)
    preparing = time.perf_counter() - began
    since, told = distillation.done, 0  # after an interruption all of the collapse once more: some may be lost
    if not since:
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
            phase.progress("distillation steps", before + distillation.done, phase.total)
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
            yield phase.point(since, means, distillation.synthetic(), log.collapse[told:])
            told = len(log.collapse)
    synthetic = _finish(phase, distillation.synthetic(), log, preparing)
    yield phase.point(settings.steps, log.last_means(settings.steps - since), synthetic, log.collapse[told:])


def _begin(phase: Phase) -> tuple[LearnedSet, Log]:
    """A distillation at its start or at its last checkpoint, and its notes so far."""
    distillation = phase.begin()
    if not phase.record.has(CHECKPOINT):
        return distillation, Log()
    state = phase.record.read_tensors(CHECKPOINT)
    distillation.resume(without_log(state))
    return distillation, Log.of_tensors(state)


def _note_collapse(phase: Phase, distillation: LearnedSet, log: Log) -> None:
    if is_due(distillation.done, phase.settings.steps):
        measures = phase.collapse(distillation.synthetic())
        log.collapse.append({"step": distillation.done, **measures})


def _finish(phase: Phase, last: SyntheticSet, log: Log, preparing: float) -> SyntheticSet:
    """Fit the rates, write the set and complete the record; `preparing` are the seconds that the start took."""
    record = phase.record
    synthetic, times = fit_rates(last, phase.score) if phase.settings.fit_rates else (last, 1.0)
    record.write_tensors(CURVE, log.tensors())
    provenance = Provenance.of(
        phase.config,
        synthetic,
        data=phase.data,
        identities=phase.identities,
        upstream=phase.upstream,
        width=phase.width,
        times_learned_rates=times,
        seconds=sum(step["seconds"] for step in log.steps),
        preparing_seconds=preparing,
        peak_bytes=peak_bytes(phase.device),
    )
    write_set(record, synthetic, provenance, phase.captions, phase.data.train)
    record.remove(CHECKPOINT)
    return synthetic
