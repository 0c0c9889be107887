"""A population: distillations on features, of the same shape, that step together as one batched computation.

Each slot holds one `Distillation`. The distillation provides its start, its random draws, its checkpoint and its
current set; the population computes its steps. A slot's results do not depend on the other slots. They equal those of
the distillation's own steps, except for rounding. Slots can be filled and stopped at any time.

Within a step nothing waits for the device. Metrics stay on the device until `news` is called, and so does the check for
NaN: a slot that meets a NaN no longer changes from that step on, and ends when its metrics are read.
"""

from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from torch import Tensor

from raydd.config import DistillConfig
from raydd.distill.draws import StepDraws
from raydd.distill.engine import Distillation, require_finite
from raydd.distill.experts import Experts
from raydd.distill.image_variables import LearnedFeatures
from raydd.distill.legs import Leg, Legs, shared_legs
from raydd.distill.objectives.trajectory import TrajectoryMatching
from raydd.distill.stack import Stack
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError, NonFiniteError, RayddError

_READ_EVERY = 20


def shape_of(settings: DistillConfig) -> Hashable:
    """Return what distillations must share to step together: all settings that decide shapes or the computation.

    In addition, their features and heads must have the same widths.
    """
    blend = settings.blend if settings.blend in ("none", "noise") else "some"
    return (
        (settings.protocol, settings.images, settings.optimizer, settings.gradient),
        (settings.pairs, settings.minibatch_size, settings.student_steps, blend, settings.loss),
        (settings.similarity, settings.similarity_rank if settings.similarity == "low-rank" else 0),
        (settings.matched, settings.merged and settings.matched == "both-heads"),
        tuple(rate > 0 for rate in (settings.image_lr, settings.text_lr, settings.rate_lr)),
        settings.similarity != "identity" and settings.similarity_lr > 0,
    )


@dataclass
class News:
    """What a slot has done since the last call of `Population.news`."""

    steps: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each step, as `Distillation.step` returns them."""
    error: RayddError | None = None
    """Why the slot ended: NaN, infinity, divergence or an unreadable snapshot. Its set is the one before that step."""


class Population:
    """Distillations of one shape in slots, stepping together."""

    def __init__(self, device: str = "cpu", legs: Legs | None = None) -> None:
        """Start without distillations: all slots are free.

        Args:
            device: where to compute.
            legs: the cache of the experts' legs, which populations of one process share. None: one of its own.
        """
        self._device, self._legs = device, legs or Legs.on(device)
        self._slots: dict[int, Distillation] = {}
        self._news: dict[int, News] = {}
        self._stack: Stack | None = None  # the slots that step; built again when they change

    @property
    def stepping(self) -> list[int]:
        """The slots that have steps left, as far as is known without waiting for the device."""
        ended = {slot for slot, news in self._news.items() if news.error}
        return [
            slot
            for slot, distillation in self._slots.items()
            if distillation.done < distillation.config.steps and slot not in ended
        ]

    def fill(self, distillation: Distillation) -> int:
        """Put a distillation, new or in progress, into a free slot; return the slot's number.

        Raises:
            ConfigError: the distillation does not match trajectories, does not learn features, or differs in shape
                from the other slots.
        """
        objective = _trajectory_objective(distillation)
        if not isinstance(distillation.image, LearnedFeatures):
            raise ConfigError(
                "A population can only learn features, but distill.images is "
                f"{distillation.config.images!r}. Set it to features."
            )
        for other in self._slots.values():
            _require_same_shape(other, distillation)
        self.settle()
        slot = next(number for number in range(len(self._slots) + 1) if number not in self._slots)
        self._slots[slot], self._news[slot] = distillation, News()
        config = distillation.config
        with suppress(RayddError):  # a step that needs the faulty snapshot reports the error
            self._legs.keep(objective.experts, range(config.max_start_epoch), config.ahead)
        return slot

    def stop(self, slot: int) -> Distillation:
        """Empty a slot; return its distillation in its current state, which can continue alone or in another slot."""
        self.settle()
        del self._news[slot]
        return self._slots.pop(slot)

    def synthetic(self, slot: int) -> SyntheticSet:
        """Return a slot's current set, on the CPU."""
        self.settle()
        return self._slots[slot].synthetic()

    def state(self, slot: int) -> dict[str, Tensor]:
        """Return what a population or a `Distillation` needs to resume a slot's distillation (`Distillation.state`)."""
        self.settle()
        return self._slots[slot].state()

    def resume(self, slot: int, state: Mapping[str, Tensor]) -> None:
        """Continue a slot from what `state` returned.

        Raises:
            RecordError: the state belongs to other settings.
        """
        self.settle()
        self._slots[slot].resume(state)

    def news(self) -> dict[int, News]:
        """Return what each slot has done since the last call; waits for the device."""
        self._read_metrics()
        unread = self._news
        self._news = {slot: News(error=news.error) for slot, news in unread.items()}
        return unread

    def step(self) -> None:
        """Take one step in each slot that has steps left."""
        draws_and_legs = self._draw_steps()
        if draws_and_legs and self._stack is not None and self._stack.slots != list(draws_and_legs):
            self.settle()  # this may show that a slot has failed since, so that its draws are void
            draws_and_legs = self._draw_steps()
        if not draws_and_legs:
            return
        if self._stack is None:
            self._stack = Stack({slot: self._slots[slot] for slot in draws_and_legs}, self._device)
        self._stack.step([draws for draws, _ in draws_and_legs.values()], [leg for _, leg in draws_and_legs.values()])

    def settle(self) -> None:
        """Copy all variables back to the distillations, so that each has its slot's current state."""
        self._read_metrics()
        if self._stack is not None:
            self._stack.hand_back()
            self._stack = None

    def _draw_steps(self) -> dict[int, tuple[StepDraws, Leg]]:
        """Draw the next step of each slot; a slot whose snapshots cannot be read ends."""
        draws_and_legs = {}
        for slot in self.stepping:
            distillation = self._slots[slot]
            draws = _trajectory_objective(distillation).draws(distillation.done)
            try:
                leg = self._legs.get(distillation.experts, draws.expert, draws.start_epoch, distillation.config.ahead)
            except RayddError as error:
                self._news[slot].error = error
            else:
                draws_and_legs[slot] = draws, leg
        return draws_and_legs

    def _read_metrics(self) -> None:
        """Record the metrics of the steps, and end the slots that met a NaN or diverged."""
        if self._stack is None:
            return
        for slot, steps in self._stack.take_metrics().items():
            news, distillation = self._news[slot], self._slots[slot]
            for number, metrics in enumerate(steps):
                try:
                    require_finite(distillation.done - len(steps) + number, metrics)
                except NonFiniteError as error:
                    news.error = error
                    distillation.take_back(len(steps) - number)
                    break
                news.steps.append(metrics)


def steps_of(distillation: Distillation) -> Callable[[int], News]:
    """Return a function that takes a number of steps of one distillation and returns their news; it stops on failure.

    On a GPU the distillation steps in a population of one if it can: then steps wait for nothing, and their metrics are
    read together. Afterwards the distillation has the state after those steps. Its legs stay in memory for the next
    distillation of this process. Otherwise it takes its own steps.
    """
    batched = isinstance(distillation.objective, TrajectoryMatching) and isinstance(distillation.image, LearnedFeatures)
    if not batched or steps_per_read(distillation.device) == 1:
        return lambda steps: _take_own_steps(distillation, steps)
    population = Population(distillation.device, shared_legs(distillation.device))
    slot = population.fill(distillation)

    def take_steps(steps: int) -> News:
        for _ in range(steps):
            population.step()
        population.settle()
        return population.news()[slot]

    return take_steps


def steps_per_read(device: str) -> int:
    """Return how many steps to take before reading their metrics: several on a GPU, which waits at each reading."""
    return _READ_EVERY if device.startswith("cuda") else 1


def _take_own_steps(distillation: Distillation, steps: int) -> News:
    news = News()
    try:
        for _ in range(steps):
            news.steps.append(distillation.step())
    except RayddError as error:
        news.error = error
    return news


def _trajectory_objective(distillation: Distillation) -> TrajectoryMatching:
    """Return a distillation's objective, which must be trajectory matching.

    Raises:
        ConfigError: the distillation has another objective.
    """
    if not isinstance(distillation.objective, TrajectoryMatching):
        raise ConfigError(
            f"Distillations with distill.objective {distillation.config.objective} cannot step side by side. Set "
            "sweep.together to 1."
        )
    return distillation.objective


def _require_same_shape(first: Distillation, second: Distillation) -> None:
    """Check that two distillations can step together.

    Raises:
        ConfigError: their shapes differ.
    """

    def shape(distillation: Distillation) -> Hashable:
        assert isinstance(distillation.experts, Experts)
        variables = {name: tuple(variable.shape) for name, variable in distillation.variables.items()}
        return shape_of(distillation.config), tuple(variables.items()), distillation.experts.width

    if shape(first) != shape(second):
        raise ConfigError(
            f"Distillations of different shapes cannot step together: {shape(first)} and {shape(second)}. "
            "Group them by shape_of."
        )
