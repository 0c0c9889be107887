"""Distillations of features side by side as one batched computation, each with the record that it would have alone."""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Any

from raydd.config import Config
from raydd.cpu_time import counted_as
from raydd.distill.engine import DistillPoint
from raydd.distill.population import News, Population, shape_of
from raydd.errors import RayddError
from raydd.protocols import Workbench
from raydd.stages.distilling import only_phase
from raydd.stages.matching import Course, Watch, finished

AT_ONCE = 16  # distillations that step together: more gain little, and wait for each other's scores


def group_of(config: Config) -> Hashable:
    """What runs on the same data must have in common to step together; all else may differ."""
    return shape_of(config.distill), config.encoders, config.experts.width


class Together:
    """Distillations on the same data under way in one process; those of one `group_of` step together.

    Each is begun, looked at and stopped by itself, under a name that the caller gives it.
    """

    def __init__(self) -> None:
        """Nothing is under way."""
        self._populations: dict[Hashable, Population] = {}
        self._courses: defaultdict[Hashable, dict[int, tuple[str, Course]]] = defaultdict(dict)
        """By group and by slot of its population: the name, and the distillation."""

    @property
    def names(self) -> set[str]:
        """Of the distillations under way."""
        return {name for courses in self._courses.values() for name, _ in courses.values()}

    def begin(self, name: str, work: Workbench[Any], *, every: int = 0) -> DistillPoint | None:
        """Begin a distillation, or go on from its checkpoint; gives the point at which it stands, if it stands at one.

        Args:
            name: one that no other has.
            work: its workbench, `distill.images` being features.
            every: steps between two points of it; 0 yields the last one alone.

        Raises:
            RayddError: it cannot begin; the others are as they were.
        """
        phase, group = only_phase(work, every), group_of(work.config)
        if phase.record.complete:
            return finished(phase)
        population = self._populations.get(group) or Population(work.device)
        course = Course.begun(phase)
        slot = population.fill(course.distillation)
        self._populations[group] = population
        self._courses[group][slot] = name, course
        return course.point_again()

    def look(self) -> Iterator[tuple[str, DistillPoint | RayddError]]:
        """Let each group step until one of it is to be looked at; gives what there is to tell, and ends what has ended.

        Raises:
            Leave: the process has to end; `keep` is still to be called.
        """
        for group, courses in list(self._courses.items()):
            yield from self._look(group, courses)

    def stop(self, name: str) -> None:
        """Keep the state of one and let it go on no further; nothing if it has ended."""
        for group, courses in list(self._courses.items()):
            for slot, (own, course) in list(courses.items()):
                if own == name:
                    try:
                        self._populations[group].settle()
                        course.keep()
                    finally:
                        self._free(group, slot)

    def keep(self) -> None:
        """Write the checkpoint of each."""
        for group, courses in self._courses.items():
            self._populations[group].settle()
            for _, course in courses.values():
                course.keep()

    def _look(
        self, group: Hashable, courses: dict[int, tuple[str, Course]]
    ) -> Iterator[tuple[str, DistillPoint | RayddError]]:
        steps = min(course.steps_to_look for _, course in courses.values())
        for slot, (name, course) in list(courses.items()):
            try:
                course.have_experts(steps)
            except RayddError as error:
                self._free(group, slot)
                yield name, error
        if not courses:
            return
        population, watch = self._populations[group], Watch()
        with counted_as("distillation steps"):
            for _ in range(steps):
                population.step()
            news = population.news()
            population.settle()
        took, taken = watch.read(), sum(len(own.steps) for own in news.values())
        for slot, own in news.items():
            if own.steps:  # a step's share of the time
                courses[slot][1].note(own.steps, took.of(len(own.steps) / taken))
        for slot, own in news.items():
            name, course = courses[slot]
            point = _looked_at(course, own)
            if course.at_end or isinstance(point, RayddError):
                self._free(group, slot)
            if point is not None:
                yield name, point

    def _free(self, group: Hashable, slot: int) -> None:
        self._populations[group].stop(slot)
        del self._courses[group][slot]
        if not self._courses[group]:  # its experts' snapshots leave the device
            del self._courses[group], self._populations[group]


def _looked_at(course: Course, news: News) -> DistillPoint | RayddError | None:
    """What there is to tell of a distillation after some steps; at the end its record is complete."""
    if news.error:
        course.keep_last_good()
        return news.error
    try:
        point = course.after_steps() if news.steps else None
        return course.finish() if course.at_end else point
    except RayddError as error:  # such as of a student whose learning rates are fitted
        return error
