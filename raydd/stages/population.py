"""Several distillations of features as one batched computation, each with the record that it would have alone."""

import time
from collections.abc import Container, Hashable, Iterable, Iterator
from typing import Any

from raydd.config import Config
from raydd.distill.engine import DistillPoint
from raydd.distill.population import News, Population, shape_of
from raydd.errors import RayddError
from raydd.progress import Leave
from raydd.protocols import Workbench
from raydd.stages.distilling import only_phase
from raydd.stages.matching import Course, finished

AT_ONCE = 16  # distillations that step together: more gain little, and wait for each other's scores


def group_of(config: Config) -> Hashable:
    """What runs on the same data must have in common to be distilled together; all else may differ."""
    return shape_of(config.distill), config.encoders, config.experts.width


def distil_together(
    works: Iterable[Workbench[Any]], *, every: int = 0, at_once: int = AT_ONCE, stopped: Container[int] = ()
) -> Iterator[tuple[int, DistillPoint | RayddError]]:
    """Distil several sets side by side; yields as `distill` does, each point with the number of its workbench.

    A workbench is asked for when a place is free, so `works` may be an iterator that decides what comes next by what
    came before. One that fails yields its error in place of a last point, and the others go on.

    Args:
        works: workbenches of one `group_of`, on the same data, `distill.images` being features.
        every: steps between two points of one; 0 yields the last one alone.
        at_once: the most that step together.
        stopped: numbers of workbenches that need not go on. It is looked into after each point, so the caller may add
            to it. Their checkpoints stay, so that they can be gone on with.

    Raises:
        Leave: the process has to end; all checkpoints are written.
    """
    together = _Together(enumerate(works), every, at_once)
    try:
        while together.courses or not together.all_asked:
            yield from together.fill()
            yield from together.look()
            together.stop(stopped)
    except Leave:
        for _, course in together.courses.values():
            course.keep()
        raise


class _Together:
    """The distillations that step together, and those to come."""

    def __init__(self, waiting: Iterator[tuple[int, Workbench[Any]]], every: int, at_once: int) -> None:
        self._waiting, self._every, self._at_once = waiting, every, at_once
        self._population: Population | None = None
        self.courses: dict[int, tuple[int, Course]] = {}
        """By slot: the number of the workbench, and its distillation."""
        self.all_asked = False
        """Whether there are no more workbenches to come."""

    def fill(self) -> Iterator[tuple[int, DistillPoint | RayddError]]:
        """Begin what is waiting while there is room; gives what is finished already, or cannot begin."""
        while not self.all_asked and len(self.courses) < self._at_once:
            number, work = next(self._waiting, (-1, None))
            if work is None:
                self.all_asked = True
                return
            try:
                phase = only_phase(work, self._every)
                if phase.record.complete:
                    yield number, finished(phase)
                    continue
                course = Course.begun(phase)
                self._population = self._population or Population(work.device)
                self.courses[self._population.fill(course.distillation)] = number, course
            except RayddError as error:
                yield number, error

    def look(self) -> Iterator[tuple[int, DistillPoint | RayddError]]:
        """Step until one of them is to be looked at, and look at all."""
        if self._population is None or not self.courses:
            return
        began = time.perf_counter()
        for _ in range(min(course.steps_to_look for _, course in self.courses.values())):
            self._population.step()
        news = self._population.news()
        self._population.settle()
        seconds, steps = time.perf_counter() - began, sum(len(own.steps) for own in news.values())
        for slot, own in news.items():
            if own.steps:  # a step's share of the time
                self.courses[slot][1].note(own.steps, seconds * len(own.steps) / steps)
        for slot, own in news.items():
            number, course = self.courses[slot]
            point = _looked_at(course, own)
            if course.at_end or isinstance(point, RayddError):
                self._free(slot)
            if point is not None:
                yield number, point

    def stop(self, stopped: Container[int]) -> None:
        """Keep and free what the caller wants no longer."""
        for slot, (number, course) in list(self.courses.items()):
            if number in stopped:
                course.keep()
                self._free(slot)

    def _free(self, slot: int) -> None:
        assert self._population is not None
        self._population.stop(slot)
        del self.courses[slot]


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
