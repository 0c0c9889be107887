"""Runs distillations of features side by side as one batched computation; each has the same record as if run alone."""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any

from raydd.config import Config
from raydd.cpu_time import Watch, counted_as
from raydd.distill.engine import DistillPoint
from raydd.distill.legs import Legs
from raydd.distill.population import News, Population, shape_of
from raydd.errors import RayddError
from raydd.protocols import Workbench
from raydd.stages.distilling import only_phase
from raydd.stages.matching import Course, finished

AT_ONCE = 16  # distillations that step together: more gain little, and wait while the others are scored


def group_of(config: Config) -> Hashable:
    """Return the settings that runs on the same data must share to step together; all others may differ."""
    return shape_of(config.distill), config.encoders, config.experts.width


class Together:
    """Distillations on the same data that run in one process; those with the same `group_of` step together.

    Each distillation has a name from the caller, and begins, reports and stops on its own.
    """

    def __init__(self) -> None:
        """Start without distillations."""
        self._populations: dict[Hashable, Population] = {}
        self._legs: Legs | None = None  # of all populations, so that they share one limit
        self._courses: defaultdict[Hashable, dict[int, tuple[str, Course]]] = defaultdict(dict)
        """Name and course of each distillation, by group and by slot in the group's population."""

    @property
    def names(self) -> set[str]:
        """Names of the running distillations."""
        return {name for courses in self._courses.values() for name, _ in courses.values()}

    def begin(self, name: str, work: Workbench[Any], *, every: int = 0) -> DistillPoint | None:
        """Begin a distillation or resume it from its checkpoint; return the point of its current step, if it has one.

        Args:
            name: a name that no other distillation has.
            work: its workbench, with `distill.images` features.
            every: steps between two of its points; 0 yields only the last point.

        Raises:
            RayddError: the distillation cannot begin; the others are unchanged.
        """
        phase, group = only_phase(work, every), group_of(work.config)
        if phase.record.complete:
            return finished(phase)
        self._legs = self._legs or Legs.on(work.device)
        population = self._populations.get(group) or Population(work.device, self._legs)
        course = Course.begin(phase)
        slot = population.fill(course.distillation)
        self._populations[group] = population
        self._courses[group][slot] = name, course
        return course.resumed_point()

    def take_steps(self) -> Iterator[tuple[str, DistillPoint | RayddError]]:
        """Let each group step until one of its distillations has something to report; yield the points and errors.

        Distillations that have completed or failed are removed.

        Raises:
            Leave: the process must end; the caller must still call `save_checkpoints`.
        """
        for group, courses in list(self._courses.items()):
            yield from self._step_group(group, courses)

    def stop(self, name: str) -> None:
        """Save the state of a distillation and stop it; does nothing if it has ended."""
        for group, courses in list(self._courses.items()):
            for slot, (course_name, course) in list(courses.items()):
                if course_name == name:
                    try:
                        self._populations[group].settle()
                        course.save_checkpoint()
                    finally:
                        self._remove(group, slot)

    def save_checkpoints(self) -> None:
        """Write a checkpoint of each distillation."""
        for group, courses in self._courses.items():
            self._populations[group].settle()
            for _, course in courses.values():
                course.save_checkpoint()

    def _step_group(
        self, group: Hashable, courses: dict[int, tuple[str, Course]]
    ) -> Iterator[tuple[str, DistillPoint | RayddError]]:
        steps = min(course.steps_until_due for _, course in courses.values())
        for slot, (name, course) in list(courses.items()):
            try:
                course.ensure_experts(steps)
            except RayddError as error:
                self._remove(group, slot)
                yield name, error
        if not courses:
            return
        population, watch = self._populations[group], Watch()
        with counted_as("distillation steps"):
            for _ in range(steps):
                population.step()
            news = population.news()
            population.settle()
        elapsed, total_steps = watch.read(), sum(len(course_news.steps) for course_news in news.values())
        for slot, course_news in news.items():
            if course_news.steps:  # the time is shared out by number of steps
                courses[slot][1].log_steps(course_news.steps, elapsed.share(len(course_news.steps) / total_steps))
        for slot, course_news in news.items():
            name, course = courses[slot]
            point = _report_after_steps(course, course_news)
            if course.at_end or isinstance(point, RayddError):
                self._remove(group, slot)
            if point is not None:
                yield name, point

    def _remove(self, group: Hashable, slot: int) -> None:
        self._populations[group].stop(slot)
        del self._courses[group][slot]
        if not self._courses[group]:
            del self._courses[group], self._populations[group]
        if not self._courses:  # frees the experts' snapshots on the device
            self._legs = None


def _report_after_steps(course: Course, news: News) -> DistillPoint | RayddError | None:
    """Return what a distillation reports after some steps; completes its record after the last step."""
    if news.error:
        course.save_last_good()
        return news.error
    try:
        point = course.after_steps() if news.steps else None
        return course.finish() if course.at_end else point
    except RayddError as error:  # for example from a student that diverged while learning rates were fitted
        return error
