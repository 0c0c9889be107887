"""One phase of a distillation: steps until the record is complete, interrupted at any time."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from raydd.config import DistillConfig
from raydd.cpu_time import counted_as
from raydd.data.encoders import image_identity, text_identity
from raydd.distill.engine import Distillation, DistillPoint
from raydd.distill.population import at_once, steps_of
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
_COLLAPSE_POINTS = 10  # times that collapse is measured over the steps, beside the start


@dataclass(frozen=True)
class Took:
    """What some work took."""

    seconds: float
    cpu_seconds: float
    """Of all threads of this process."""

    def of(self, share: float) -> Self:
        """A share of it."""
        return type(self)(self.seconds * share, self.cpu_seconds * share)


class Watch:
    """Measures what work takes from here on."""

    def __init__(self) -> None:
        """Begin."""
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Took:
        """What was taken so far."""
        return Took(time.perf_counter() - self._began, time.process_time() - self._cpu)


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
    """Take distillation steps until the record is complete, going on from its checkpoint.

    Raises:
        NonFiniteError: a loss or gradient became NaN or infinite. The set before that step stays in the folder.
        Leave: the process has to end; the checkpoint is written, as when the generator is closed.
    """
    if phase.record.complete:
        yield finished(phase)
        return
    course = Course.begun(phase)
    try:
        if point := course.point_again():
            yield point
        take = steps_of(course.distillation)
        while not course.at_end:
            steps = min(at_once(phase.work.device), course.steps_to_look)
            course.have_experts(steps)
            watch = Watch()
            with counted_as("distillation steps"):
                news = take(steps)
            if news.steps:
                course.note(news.steps, watch.read())
            if news.error:
                course.keep_last_good()
                raise news.error
            if point := course.after_steps():
                yield point
    except (Leave, GeneratorExit):  # told to leave here, in an expert's training, or while a point is scored
        course.keep()
        raise
    yield course.finish()


def finished(phase: Phase) -> DistillPoint:
    """The last point of a phase whose record is complete."""
    log, steps = Log.of_tensors(phase.record.read_tensors(CURVE)), phase.settings.steps
    earlier = log.means_before(steps, phase.every)
    last = log.last_means(steps - (int(earlier[-1]["step"]) if earlier else 0))
    return phase.point(steps, last, load_synthetic(phase.record), log.collapse, earlier)


@dataclass
class Course:
    """A phase on its way: its distillation, and all that is noted and kept of it, whoever takes its steps."""

    phase: Phase
    distillation: Distillation
    log: Log
    preparing: Took
    """What the start took."""
    since: int
    """Steps done at the last point."""
    earlier: Points
    """Points of before an interruption, to be told once more, as all notes: what was told before it may be lost."""
    told: int = 0
    """Collapse measures told so far."""
    experts: set[int] = field(default_factory=set)
    """Those that are known to be in the store."""

    @classmethod
    def begun(cls, phase: Phase) -> Self:
        """A phase at its start or at its last checkpoint, with its notes so far."""
        reset_peak(phase.work.device)
        watch, log = Watch(), Log()
        distillation = phase.work.begin(phase.settings, phase.start())
        if phase.record.has(CHECKPOINT):
            state = phase.record.read_tensors(CHECKPOINT)
            distillation.resume(without_log(state))
            log = Log.of_tensors(state)
        earlier = log.means_before(distillation.done, phase.every)
        since = int(earlier[-1]["step"]) if earlier else 0
        course = cls(phase, distillation, log, watch.read(), since, earlier)
        if not distillation.done:
            course._note_collapse()
        return course

    def point_again(self) -> DistillPoint | None:
        """The point at which it goes on, if it stands at one: whoever was to be told may not have heard."""
        done, every = self.distillation.done, self.phase.every
        stands = every and done and done % every == 0 and not self.at_end
        return self._point(self.distillation.synthetic()) if stands else None

    @property
    def at_end(self) -> bool:
        """Whether all steps are done."""
        return self.distillation.done >= self.phase.settings.steps

    @property
    def steps_to_look(self) -> int:
        """Steps until something is to be measured, kept or told, for which `after_steps` must be called."""
        steps, done, settings = self.phase.settings.steps, self.distillation.done, self.phase.settings
        periods = [_collapse_period(steps), settings.checkpoint_every, self.phase.every or settings.checkpoint_every]
        return min(steps - done, *(period - done % period for period in periods))

    def have_experts(self, steps: int = 1) -> None:
        """Have the experts of the next steps in the store, outside the time that steps are said to take."""
        distillation = self.distillation
        for step in range(distillation.done, distillation.done + steps):
            if len(self.experts) == distillation.experts.count:
                return  # a step's draws are not made twice for what is known
            expert = distillation.objective.expert(step)
            if expert is not None and expert not in self.experts:
                self.phase.work.have_expert(distillation.experts, expert)
                self.experts.add(expert)

    def note(self, steps: Points, took: Took) -> None:
        """Note the metrics of some steps and what they took together, and measure collapse if that is due."""
        each = {"seconds": took.seconds / len(steps), "cpu_seconds": took.cpu_seconds / len(steps)}
        self.log.steps += [metrics | each for metrics in steps]
        self._note_collapse()

    def after_steps(self) -> DistillPoint | None:
        """Tell and keep what is due after the steps that were noted; gives a point if one is.

        Raises:
            Leave: the process has to end; `keep` is still to be called.
        """
        phase, done = self.phase, self.distillation.done
        phase.work.progress("distillation steps", phase.before + done, phase.total)
        if self.at_end:
            return None
        if done % phase.settings.checkpoint_every == 0:
            self.keep()
        if not phase.every or done % phase.every:
            return None
        return replace(self._point(self.distillation.synthetic()), keep=self.keep)

    def keep(self) -> None:
        """Write a checkpoint."""
        self.phase.record.write_tensors(CHECKPOINT, self.distillation.state() | self.log.tensors())

    def keep_last_good(self) -> None:
        """Write the set before the step that failed."""
        self.phase.record.write_tensors(LAST_GOOD, self.distillation.synthetic().tensors())

    def finish(self) -> DistillPoint:
        """Complete the record; gives the last point."""
        synthetic, fitted_val = _finish(self.phase, self.distillation.synthetic(), self.log, self.preparing)
        return replace(self._point(synthetic), fitted_val=fitted_val)

    def _point(self, synthetic: SyntheticSet) -> DistillPoint:
        """What there is to tell since the last point."""
        done, collapse, earlier = self.distillation.done, self.log.collapse[self.told :], self.earlier
        means = self.log.last_means(done - self.since)
        self.since, self.told, self.earlier = done, len(self.log.collapse), []
        return self.phase.point(done, means, synthetic, collapse, earlier)

    def _note_collapse(self) -> None:
        """Measure collapse at the start, ten times on the way, and at the end."""
        step, steps = self.distillation.done, self.phase.settings.steps
        if step == steps or step % _collapse_period(steps) == 0:
            self.log.collapse.append({"step": step, **self.phase.work.collapse(self.distillation.synthetic())})


def _collapse_period(steps: int) -> int:
    return max(1, steps // _COLLAPSE_POINTS)


def _finish(
    phase: Phase, last: SyntheticSet, log: Log, preparing: Took
) -> tuple[SyntheticSet, dict[str, float] | None]:
    """Fit the learning rates, write the set and complete the record; `preparing` is what the start took.

    Returns:
        The set, and the val scores of the student that its rates were fitted by.
    """
    record, work = phase.record, phase.work
    if record.complete:  # by another process meanwhile: its set stands, to the last bit
        return load_synthetic(record), None
    synthetic, times, fitted_val = last, 1.0, None
    if phase.settings.fit_rates:
        work.progress("fits of the students' learning rates", 0, 1)
        with counted_as("fits of learning rates"):
            # Without steps the rates are those of the features that the pixels were found for, fitted already.
            fitted = fit_rates(work, last, near=0.0 if phase.settings.steps else 1.0)
            synthetic, times, fitted_val = fitted.pairs, fitted.multiple, fitted.val.seeds[0]
        work.progress("fits of the students' learning rates", 1, 1)
    record.write_tensors(CURVE, log.tensors())
    config, encoders, cpu_seconds = work.config, work.config.encoders, log.cpu_seconds
    experts = work.experts_record.fingerprint if config.distill.reads_experts else None
    made = Provenance.of(
        config,
        synthetic,
        data=work.data,
        identities=(image_identity(encoders), text_identity(encoders)),
        upstream=Upstream(experts=experts, features=work.source),
        width=work.width,
        times_learned_rates=times,
        seconds=log.seconds,
        preparing_seconds=preparing.seconds,
        cpu_seconds=None if cpu_seconds is None else cpu_seconds + preparing.cpu_seconds,
        peak_bytes=peak_bytes(work.device),
    )
    write_set(record, synthetic, made, work.captions.train.texts, work.data.train)
    record.remove(CHECKPOINT)
    return synthetic, fitted_val
