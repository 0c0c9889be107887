"""One phase of a distillation, whatever is trained in it: matching steps until the record is complete, interrupted at
any time."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raydd.config import DistillConfig
from raydd.data import CaptionRows, DataSet
from raydd.distill.engine import Distillation, DistillPoint
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError, RecordError
from raydd.memory import peak_bytes, reset_peak
from raydd.progress import Leave, Progress
from raydd.stages.collapsing import is_due
from raydd.stages.curves import Log, Points, without_log
from raydd.stages.rates import fit_rates
from raydd.stages.synthetic_files import write_readable
from raydd.store import Record

SET = "synthetic.safetensors"
LAST_GOOD = "last_good.safetensors"
CHECKPOINT = "checkpoint.safetensors"
CURVE = "curve.safetensors"


@dataclass(frozen=True)
class Phase:
    """A phase and what it needs of its surroundings."""

    record: Record
    settings: DistillConfig
    begin: Callable[[], Distillation]
    """The distillation at its start."""
    collapse: Callable[[SyntheticSet], dict[str, float]]
    """Collapse measures of a set."""
    score: Callable[[SyntheticSet], float]
    """Val r_mean of one student of a set, by which the rates are fitted at the end."""
    data: DataSet
    captions: CaptionRows
    """Features of the training captions."""
    facts: Mapping[str, Any]
    """What the record says of the encoders and the experts."""
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


def load_synthetic(record: Record) -> SyntheticSet:
    """The synthetic set of a complete record.

    Raises:
        RecordError: the record is not complete, or damaged.
    """
    if not record.complete:
        raise RecordError(f"{record.folder} is not complete. Run `raydd distill` with the same settings.")
    return SyntheticSet.of_tensors(record.read_tensors(SET), record.facts()["set"])


def _begin(phase: Phase) -> tuple[Distillation, Log]:
    """A distillation at its start or at its last checkpoint, and its notes so far."""
    distillation = phase.begin()
    if not phase.record.has(CHECKPOINT):
        return distillation, Log()
    state = phase.record.read_tensors(CHECKPOINT)
    distillation.resume(without_log(state))
    return distillation, Log.of_tensors(state)


def _note_collapse(phase: Phase, distillation: Distillation, log: Log) -> None:
    if is_due(distillation.done, phase.settings.steps):
        measures = phase.collapse(distillation.synthetic())
        log.collapse.append({"step": distillation.done, **measures})


def _finish(phase: Phase, last: SyntheticSet, log: Log, preparing: float) -> SyntheticSet:
    """Fit the rates, write the set and complete the record; `preparing` are the seconds that the start took."""
    record, data = phase.record, phase.data
    synthetic, times = fit_rates(last, phase.score) if phase.settings.fit_rates else (last, 1.0)
    nearest = write_readable(record, synthetic, phase.captions, data.train)
    record.write_tensors(SET, synthetic.tensors(), synthetic.facts())
    record.write_tensors(CURVE, log.tensors())
    record.finish(
        facts={
            "set": synthetic.facts(),
            "pairs": len(synthetic),
            "protocol": phase.settings.protocol,
            "data": {"name": data.name, "fingerprint": data.fingerprint},
            **phase.facts,
            "times_learned_rates": times,
            "first_captions": nearest[:3],
            "seconds": sum(step["seconds"] for step in log.steps),
            "preparing_seconds": preparing,
            "peak_bytes": peak_bytes(phase.device),
        }
    )
    record.remove(CHECKPOINT)
    return synthetic
