"""A population: distillations of features of one shape that step together, as one batched computation.

Each slot holds one `Distillation`, which says how it begins, what it draws, what its checkpoint is and what set it has
come to; the population takes its steps. A slot's results do not depend on its neighbours, and equal what its
distillation would have done by its own steps, but for rounding. Slots are filled and stopped at any time.

Within a step nothing waits for the device. What steps report stays there until `news` is asked for, and so does the
verdict on a NaN: a slot that has one moves no more from that step on, and ends when it is read.
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
from raydd.distill.legs import Leg, Legs, most_bytes_on
from raydd.distill.objectives.trajectory import TrajectoryMatching
from raydd.distill.stack import Stack
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError, NonFiniteError, RayddError

_READ_EVERY = 20


def shape_of(settings: DistillConfig) -> Hashable:
    """What distillations must have in common to step together: all that decides shapes or what is computed.

    Their features and heads must have the same widths as well.
    """
    blend = settings.blend if settings.blend in ("none", "noise") else "some"
    return (
        (settings.protocol, settings.images, settings.optimizer, settings.gradient),
        (settings.pairs, settings.minibatch_size, settings.student_steps, blend, settings.loss),
        (settings.similarity, settings.rank if settings.similarity == "low-rank" else 0),
        (settings.matched, settings.merged and settings.matched == "both-heads"),
        tuple(rate > 0 for rate in (settings.image_lr, settings.text_lr, settings.rate_lr)),
        settings.similarity != "identity" and settings.similarity_lr > 0,
    )


@dataclass
class News:
    """What a slot has done since it was last asked."""

    steps: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each step, as `Distillation.step` gives them."""
    error: RayddError | None = None
    """Why it ended: NaN, infinity, divergence, a snapshot that cannot be read. Its set is that before the step."""


class Population:
    """Distillations of one shape in slots, stepping together."""

    def __init__(self, device: str = "cpu", *, most_bytes: int | None = None) -> None:
        """All slots are free.

        Args:
            device: where to compute.
            most_bytes: of the experts' snapshots that are kept on the device; others are read again when drawn. None
                is as many as `most_bytes_on` says.
        """
        most_bytes = most_bytes_on(device) if most_bytes is None else most_bytes
        self._device, self._legs = device, Legs(device, most_bytes)
        self._slots: dict[int, Distillation] = {}
        self._news: dict[int, News] = {}
        self._stack: Stack | None = None  # of the slots that step; made when they change

    @property
    def stepping(self) -> list[int]:
        """The slots that have steps to do, as far as is known without asking the device."""
        ended = {slot for slot, news in self._news.items() if news.error}
        return [slot for slot, own in self._slots.items() if own.done < own.config.steps and slot not in ended]

    def fill(self, distillation: Distillation) -> int:
        """Put a distillation, at its start or on its way, into a free slot; gives the slot's number.

        Raises:
            ConfigError: it does not match trajectories, does not learn features, or has another shape than those that
                are here.
        """
        objective = _trajectories(distillation)
        if not isinstance(distillation.image, LearnedFeatures):
            raise ConfigError(
                "A population learns features, and distill.images is "
                f"{distillation.config.images!r}. Set it to features."
            )
        for other in self._slots.values():
            _require_alike(other, distillation)
        self.settle()
        slot = next(number for number in range(len(self._slots) + 1) if number not in self._slots)
        self._slots[slot], self._news[slot] = distillation, News()
        config = distillation.config
        with suppress(RayddError):  # the step that needs such a snapshot says what is wrong with it
            self._legs.keep(objective.experts, range(config.max_start_epoch), config.ahead)
        return slot

    def stop(self, slot: int) -> Distillation:
        """Empty a slot; gives its distillation as it stands, which can go on by itself or in another slot."""
        self.settle()
        del self._news[slot]
        return self._slots.pop(slot)

    def synthetic(self, slot: int) -> SyntheticSet:
        """A slot's set as it stands, on the CPU."""
        self.settle()
        return self._slots[slot].synthetic()

    def state(self, slot: int) -> dict[str, Tensor]:
        """Everything that `resume` needs, of a population or of the distillation alone: `Distillation.state`."""
        self.settle()
        return self._slots[slot].state()

    def resume(self, slot: int, state: Mapping[str, Tensor]) -> None:
        """Let a slot go on from what `state` gave.

        Raises:
            RecordError: the state belongs to other settings.
        """
        self.settle()
        self._slots[slot].resume(state)

    def news(self) -> dict[int, News]:
        """What each slot has done since this was last asked for; waits for the device."""
        self._read()
        told = self._news
        self._news = {slot: News(error=news.error) for slot, news in told.items()}
        return told

    def step(self) -> None:
        """Take one step of each slot that has steps to do."""
        stack, drawn = self._stack, self._drawn()
        if not drawn:
            return
        if stack is None or stack.slots != list(drawn):
            self.settle()
            stack = self._stack = Stack({slot: self._slots[slot] for slot in drawn}, self._device)
        stack.step([draws for draws, _ in drawn.values()], [leg for _, leg in drawn.values()])

    def settle(self) -> None:
        """Hand all variables back to their distillations, which then stand where their slots do."""
        self._read()
        if self._stack is not None:
            self._stack.hand_back()
            self._stack = None

    def _drawn(self) -> dict[int, tuple[StepDraws, Leg]]:
        """What each slot draws for its next step; a slot whose snapshots cannot be read ends."""
        found = {}
        for slot in self.stepping:
            own = self._slots[slot]
            draws = _trajectories(own).draws(own.done)
            try:
                leg = self._legs.get(own.experts, draws.expert, draws.start_epoch, own.config.ahead)
            except RayddError as error:
                self._news[slot].error = error
            else:
                found[slot] = draws, leg
        return found

    def _read(self) -> None:
        """Note what the steps have reported, and end the slots that met a NaN."""
        if self._stack is None:
            return
        for slot, steps in self._stack.reported().items():
            news, own = self._news[slot], self._slots[slot]
            for number, metrics in enumerate(steps):
                try:
                    require_finite(own.done - len(steps) + number, metrics)
                except NonFiniteError as error:
                    news.error = error
                    own.take_back(len(steps) - number)
                    break
                news.steps.append(metrics)


def steps_of(distillation: Distillation) -> Callable[[int], News]:
    """What takes so many steps of one distillation, or up to the one that ends it, and tells of them.

    On a GPU it steps in a population of one where it can: its steps wait for nothing, and are told of together. It
    stands where they end. Elsewhere it takes its own steps.
    """
    able = isinstance(distillation.objective, TrajectoryMatching) and isinstance(distillation.image, LearnedFeatures)
    if not able or at_once(distillation.device) == 1:
        return lambda steps: _own_steps(distillation, steps)
    population = Population(distillation.device)
    slot = population.fill(distillation)

    def take(steps: int) -> News:
        for _ in range(steps):
            population.step()
        population.settle()
        return population.news()[slot]

    return take


def at_once(device: str) -> int:
    """Steps to take before what they report is read: several on a GPU, which would wait for it at each."""
    return _READ_EVERY if device.startswith("cuda") else 1


def _own_steps(distillation: Distillation, steps: int) -> News:
    news = News()
    try:
        for _ in range(steps):
            news.steps.append(distillation.step())
    except RayddError as error:
        news.error = error
    return news


def _trajectories(distillation: Distillation) -> TrajectoryMatching:
    """What a distillation lowers.

    Raises:
        ConfigError: it is no matching of trajectories.
    """
    if not isinstance(distillation.objective, TrajectoryMatching):
        raise ConfigError(
            f"distill.objective {distillation.config.objective} does not step side by side with others. Set "
            "sweep.together to 1."
        )
    return distillation.objective


def _require_alike(one: Distillation, other: Distillation) -> None:
    """Check that two distillations can step together.

    Raises:
        ConfigError: they have other shapes.
    """

    def shape(own: Distillation) -> Hashable:
        assert isinstance(own.experts, Experts)
        variables = {name: tuple(variable.shape) for name, variable in own.variables.items()}
        return shape_of(own.config), tuple(variables.items()), own.experts.width

    if shape(one) != shape(other):
        raise ConfigError(
            f"Distillations of unlike shapes cannot step together: {shape(one)} and {shape(other)}. "
            "Group them by shape_of."
        )
