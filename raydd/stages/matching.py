"""One phase of a distillation: takes steps until its record is complete, and may be interrupted at any time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch

from raydd.config import DistillConfig
from raydd.cpu_time import ElapsedTime, Watch, counted_as
from raydd.data.encoders import image_identity, text_identity
from raydd.device import device_name
from raydd.distill.engine import Distillation, DistillPoint
from raydd.distill.population import steps_of, steps_per_read
from raydd.distill.synthetic import SyntheticSet
from raydd.memory import peak_bytes, reset_peak
from raydd.progress import Leave
from raydd.protocols import Workbench
from raydd.sets.provenance import Provenance, Upstream
from raydd.sets.read import load_synthetic
from raydd.sets.write import write_set
from raydd.stages.distill_log import Log, Points, without_log
from raydd.stages.students import fit_rates
from raydd.store import Record

LAST_GOOD = "last_good.safetensors"
CHECKPOINT = "checkpoint.safetensors"
CURVE = "curve.safetensors"
_PREPARING, _PEAK = "cost.preparing", "cost.peak"  # names in a checkpoint
_COLLAPSE_POINTS = 10  # how often collapse is measured over the steps, in addition to the start


@dataclass(frozen=True)
class Phase:
    """A phase of a distillation, with everything that it needs."""

    work: Workbench[Any]
    record: Record
    settings: DistillConfig
    prepare: Callable[[], object]
    """Makes what other distillations read too, such as features and experts; not counted as time of this one."""
    start: Callable[[], SyntheticSet]
    """Returns the set to start from."""
    every: int
    """Steps between two points; 0 yields only the last point."""
    total_steps: int
    """Steps of all phases of the distillation."""
    earlier_steps: int = 0
    """Steps of the earlier phases."""
    fitted_before: Callable[[], float] = lambda: 1.0
    """Returns the LR multiplier that the earlier phases fitted to the learning rates of the start set."""

    def point(
        self, step: int, metrics: dict[str, float], synthetic: SyntheticSet, collapse: Points, earlier: Points
    ) -> DistillPoint:
        """Return the point to report after `step` steps of this phase."""
        collapse, earlier = (
            [point | {"step": self.earlier_steps + point["step"]} for point in points] for points in (collapse, earlier)
        )
        return DistillPoint(self.earlier_steps + step, self.total_steps, metrics, synthetic, collapse, earlier)


def match(phase: Phase) -> Iterator[DistillPoint]:
    """Take distillation steps until the record is complete, starting from its checkpoint if there is one.

    Raises:
        NonFiniteError: a loss or gradient became NaN or infinite. The set before that step stays in the folder.
        Leave: the process must end. The checkpoint is written first, also when the generator is closed.
    """
    if phase.record.complete:
        yield finished(phase)
        return
    course = Course.begin(phase)
    try:
        if point := course.resumed_point():
            yield point
        take_steps = None
        while not course.at_end:
            take_steps = take_steps or steps_of(course.distillation)
            steps = min(steps_per_read(phase.work.device), course.steps_until_due)
            course.ensure_experts(steps)
            watch = Watch()
            with counted_as("distillation steps"):
                news = take_steps(steps)
            if news.steps:
                course.log_steps(news.steps, watch.read())
            if news.error:
                course.save_last_good()
                raise news.error
            if point := course.after_steps():
                yield point
        last_point = course.finish()
    except (Leave, GeneratorExit):  # by steps, experts and fits of learning rates, or while the caller scores a point
        course.save_checkpoint()
        raise
    yield last_point


def finished(phase: Phase) -> DistillPoint:
    """Return the last point of a phase whose record is complete."""
    log, steps = Log.of_tensors(phase.record.read_tensors(CURVE)), phase.settings.steps
    earlier = log.means_before(steps, phase.every)
    last_means = log.last_means(steps - (int(earlier[-1]["step"]) if earlier else 0))
    return phase.point(steps, last_means, load_synthetic(phase.record), log.collapse, earlier)


@dataclass
class Course:
    """A running phase: its distillation, log and checkpoints, regardless of which code takes its steps."""

    phase: Phase
    distillation: Distillation
    log: Log
    preparing: ElapsedTime
    """Time that preparing the start took, in the process that began the phase."""
    peak: int
    """Peak memory in bytes while the start was prepared and steps were taken, also before an interruption."""
    last_point_step: int
    """Steps done at the last point."""
    earlier: Points
    """Points before an interruption. They are reported again, like all collapse measures, in case they were lost."""
    reported: int = 0
    """Number of collapse measures reported so far."""
    experts: set[int] = field(default_factory=set)
    """Experts that are known to be in the store."""

    @classmethod
    def begin(cls, phase: Phase) -> Self:
        """Begin a phase at its start, or resume it with its log at its last checkpoint."""
        phase.prepare()
        reset_peak(phase.work.device)
        watch, log = Watch(), Log()
        distillation = phase.work.begin(phase.settings, phase.start())
        preparing, peak = watch.read(), peak_bytes(phase.work.device)
        if phase.record.has(CHECKPOINT):
            state = phase.record.read_tensors(CHECKPOINT)
            distillation.resume(without_log(state))
            log = Log.of_tensors(state)
            if _PREPARING in state:  # checkpoints of earlier versions lack both
                preparing, peak = ElapsedTime(*state[_PREPARING].tolist()), max(peak, int(state[_PEAK]))
        earlier = log.means_before(distillation.done, phase.every)
        last_point_step = int(earlier[-1]["step"]) if earlier else 0
        course = cls(phase, distillation, log, preparing, peak, last_point_step, earlier)
        if not log.collapse:
            course._measure_collapse()
        return course

    def resumed_point(self) -> DistillPoint | None:
        """Return the point of the current step, if it has one: it may not have been reported before an interruption."""
        done, every = self.distillation.done, self.phase.every
        has_point = every and done and done % every == 0 and not self.at_end
        return self._point(self.distillation.synthetic()) if has_point else None

    @property
    def at_end(self) -> bool:
        """Whether all steps are done."""
        return self.distillation.done >= self.phase.settings.steps

    @property
    def steps_until_due(self) -> int:
        """Steps until something must be measured, saved or reported; call `after_steps` then."""
        steps, done, settings = self.phase.settings.steps, self.distillation.done, self.phase.settings
        periods = [_collapse_period(steps), settings.checkpoint_every, self.phase.every or settings.checkpoint_every]
        return min(steps - done, *(period - done % period for period in periods))

    def ensure_experts(self, steps: int = 1) -> None:
        """Make sure that the experts of the next steps are in the store; this does not count as time of the steps."""
        distillation = self.distillation
        for step in range(distillation.done, distillation.done + steps):
            if len(self.experts) == distillation.experts.count:
                return  # all experts are known, so no draws need to be repeated to find out
            expert = distillation.objective.expert(step)
            if expert is not None and expert not in self.experts:
                self.phase.work.ensure_expert(distillation.experts, expert)
                self.experts.add(expert)

    def log_steps(self, steps: Points, elapsed: ElapsedTime) -> None:
        """Log the metrics of some steps, their total time and peak memory, and measure collapse if that is due."""
        self.peak = max(self.peak, peak_bytes(self.phase.work.device))
        time_per_step = {"seconds": elapsed.seconds / len(steps), "cpu_seconds": elapsed.cpu_seconds / len(steps)}
        self.log.steps += [metrics | time_per_step for metrics in steps]
        self._measure_collapse()

    def after_steps(self) -> DistillPoint | None:
        """Report progress after the logged steps, and save a checkpoint if that is due; return a point if one is due.

        Raises:
            Leave: the process must end; the caller must still call `save_checkpoint`.
        """
        phase, done = self.phase, self.distillation.done
        phase.work.progress("distillation steps", phase.earlier_steps + done, phase.total_steps)
        if self.at_end:
            return None
        if done % phase.settings.checkpoint_every == 0:
            self.save_checkpoint()
        if not phase.every or done % phase.every:
            return None
        return replace(self._point(self.distillation.synthetic()), keep=self.save_checkpoint)

    def save_checkpoint(self) -> None:
        """Write a checkpoint."""
        cost = {
            _PREPARING: torch.tensor([self.preparing.seconds, self.preparing.cpu_seconds], dtype=torch.float64),
            _PEAK: torch.tensor(self.peak),
        }
        self.phase.record.write_tensors(CHECKPOINT, self.distillation.state() | self.log.tensors() | cost)

    def save_last_good(self) -> None:
        """Write the set before the step that failed."""
        self.phase.record.write_tensors(LAST_GOOD, self.distillation.synthetic().tensors())

    def finish(self) -> DistillPoint:
        """Complete the record and return the last point."""
        synthetic, fitted_val = _finish(self, self.distillation.synthetic())
        return replace(self._point(synthetic), fitted_val=fitted_val)

    def _point(self, synthetic: SyntheticSet) -> DistillPoint:
        """Return a point with everything since the last point."""
        done, collapse, earlier = self.distillation.done, self.log.collapse[self.reported :], self.earlier
        means = self.log.last_means(done - self.last_point_step)
        self.last_point_step, self.reported, self.earlier = done, len(self.log.collapse), []
        return self.phase.point(done, means, synthetic, collapse, earlier)

    def _measure_collapse(self) -> None:
        """Measure collapse at the start, ten times during the steps, and at the end."""
        step, steps = self.distillation.done, self.phase.settings.steps
        if step == steps or step % _collapse_period(steps) == 0:
            self.log.collapse.append({"step": step, **self.phase.work.collapse(self.distillation.synthetic())})


def _collapse_period(steps: int) -> int:
    return max(1, steps // _COLLAPSE_POINTS)


def _finish(course: Course, last_set: SyntheticSet) -> tuple[SyntheticSet, dict[str, float] | None]:
    """Fit the learning rates, write the set and complete the record.

    Returns:
        The set, and the val scores of the student that its learning rates were fitted with.
    """
    phase, log, preparing = course.phase, course.log, course.preparing
    record, work = phase.record, phase.work
    if record.complete:  # another process completed it meanwhile, and its set is kept
        return load_synthetic(record), None
    synthetic, multiple, fitted_val = last_set, 1.0, None
    if phase.settings.fit_rates:
        work.progress("fits of the students' learning rates", 0, 1)
        with counted_as("fits of learning rates"):
            # Without steps, no learning rate was learned: those of the start set are as set, or fitted to features.
            fitted = fit_rates(work, last_set, near=0.0 if phase.settings.steps else 1.0)
            synthetic, fitted_val = fitted.pairs, fitted.val.seeds[0]
            multiple = phase.fitted_before() * fitted.multiple
        work.progress("fits of the students' learning rates", 1, 1)
        if record.complete:
            return load_synthetic(record), None
    record.write_tensors(CURVE, log.tensors())
    config, encoders, cpu_seconds = work.config, work.config.encoders, log.cpu_seconds
    experts = work.experts_record.fingerprint if config.distill.reads_experts else None
    provenance = Provenance.of(
        config,
        synthetic,
        data=work.data,
        identities=(image_identity(encoders), text_identity(encoders)),
        upstream=Upstream(experts=experts, features=work.source),
        width=work.width,
        times_learned_rates=multiple,
        seconds=log.seconds,
        preparing_seconds=preparing.seconds,
        cpu_seconds=None if cpu_seconds is None else cpu_seconds + preparing.cpu_seconds,
        peak_bytes=course.peak,
        device=device_name(work.device),
    )
    write_set(record, synthetic, provenance, work.captions.train.texts, work.data.train)
    record.remove(CHECKPOINT)
    return synthetic, fitted_val
