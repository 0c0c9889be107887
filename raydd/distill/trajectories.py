"""Expert trajectories in the store, whatever is trained: snapshots by expert and epoch, extended where they end.

The expert itself goes on from the state as it is stored, rounded. So a stored snapshot is the trajectory's exact state:
any later run extends it to more epochs, reads a prefix of it, or repeats it, and gets the same numbers. Each epoch
draws from a generator seeded by (seed, epoch), so nothing else has to be kept.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from raydd.config import ExpertsConfig
from raydd.distill.content import named_loss
from raydd.errors import NonFiniteError
from raydd.store import Record

State = TypeVar("State")


class Trajectories(ABC, Generic[State]):
    """Trajectories of one recipe: `count` experts, read snapshot by snapshot."""

    record: Record
    """The trajectories of one recipe on one set of data, whatever their number or length."""
    first_seed: int
    count: int
    rates: ClassVar[str]
    """The settings to lower when an expert diverges."""

    @abstractmethod
    def initial(self, expert: int) -> State:
        """An expert before its first step."""

    @abstractmethod
    def differences(self, start: State, state: State) -> dict[str, Tensor]:
        """state - start by the names that are stored, in single precision."""

    @abstractmethod
    def moved(self, start: State, differences: Mapping[str, Tensor]) -> State:
        """start + differences."""

    def snapshot(self, expert: int, epoch: int) -> State:
        """An expert after an epoch, on the CPU; epoch 0 is the initial state.

        Raises:
            RecordError: that snapshot is not in the store, or damaged.
        """
        start = self.initial(expert)
        return start if epoch == 0 else self.moved(start, self.record.map_tensors(self.name(expert, epoch)))

    def rounded(self, expert: int, state: State) -> tuple[dict[str, Tensor], State]:
        """Half-precision differences to the initial state, as stored, and the state that they stand for.

        Raises:
            NonFiniteError: a difference has no half-precision number.
        """
        start = self.initial(expert)
        stored = {name: difference.half() for name, difference in self.differences(start, state).items()}
        if not all(bool(difference.isfinite().all()) for difference in stored.values()):
            raise NonFiniteError(f"Expert {expert} left the range of half precision. Lower {self.rates}.")
        return stored, self.moved(start, stored)

    def has(self, expert: int, epoch: int) -> bool:
        """Whether a snapshot is there."""
        return epoch == 0 or self.record.has(self.name(expert, epoch))

    def missing(self, epochs: Collection[int]) -> list[int]:
        """The experts that lack any of these epochs."""
        return [expert for expert in range(self.count) if not self.has_all(expert, epochs)]

    def has_all(self, expert: int, epochs: Collection[int]) -> bool:
        """Whether one expert's snapshots of all these epochs are there."""
        return all(self.has(expert, epoch) for epoch in epochs)

    def name(self, expert: int, epoch: int) -> str:
        """The file of a snapshot inside the record."""
        return f"seed-{self.first_seed + expert:06}/epoch-{epoch:03}.safetensors"


def content_of(recipe: ExpertsConfig) -> dict[str, Any]:
    """The settings of a recipe that decide trajectories, for heads and for a trained encoder alike.

    A learning rate that is kept and the loss InfoNCE are defaults, and are left out.
    """
    content = {name: getattr(recipe, name) for name in ("lr", "batch_size", "dropout", "temperature")}
    content |= {"anneal": recipe.anneal} if recipe.anneal else {}
    return content | (named_loss(recipe.loss) if recipe.loss != "infonce" else {})


def extend(
    trajectories: Trajectories[State],
    experts: Sequence[int],
    keep: Collection[int],
    train_epoch: Callable[[Sequence[State], int, Sequence[int]], tuple[Sequence[float], Sequence[State]]],
    *,
    at_once: int = 1,
    on_epoch: Callable[[int, int, float], None] = lambda expert, epoch, loss: None,
) -> None:
    """Train experts from their last useful snapshots and store the epochs of `keep` that are missing.

    Args:
        trajectories: where snapshots are read from and written to.
        experts: which trajectories.
        keep: epochs after which a snapshot is wanted.
        train_epoch: from states, the epoch's number and each state's seed to the mean losses and the new states.
        at_once: how many it takes; those together lack the same epochs.
        on_epoch: called after each epoch of an expert with the expert, the epoch and its mean loss.

    Raises:
        NonFiniteError: an expert's loss became NaN or infinite.
    """
    alike: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for expert in experts:
        wanted = tuple(epoch for epoch in sorted(keep) if not trajectories.has(expert, epoch))
        if wanted:
            begin = max(epoch for epoch in range(wanted[0]) if trajectories.has(expert, epoch))
            alike.setdefault((begin, wanted), []).append(expert)
    for (begin, wanted), numbers in alike.items():
        for first in range(0, len(numbers), at_once):
            _extend(trajectories, numbers[first : first + at_once], begin, wanted, train_epoch, on_epoch)


def epoch_seed(first_seed: int, expert: int, epoch: int) -> int:
    """The seed of what an expert draws in an epoch."""
    return (first_seed + expert) * 1_000_003 + epoch


def _extend(
    trajectories: Trajectories[State],
    experts: Sequence[int],
    begin: int,
    wanted: Collection[int],
    train_epoch: Callable[[Sequence[State], int, Sequence[int]], tuple[Sequence[float], Sequence[State]]],
    on_epoch: Callable[[int, int, float], None],
) -> None:
    """Train experts together, from their snapshots after the epoch `begin` to the last one that is wanted."""
    states: Sequence[State] = [trajectories.snapshot(expert, begin) for expert in experts]
    for epoch in range(begin + 1, max(wanted) + 1):
        seeds = [epoch_seed(trajectories.first_seed, expert, epoch) for expert in experts]
        losses, trained = train_epoch(states, epoch, seeds)
        states = []
        for expert, loss, state in zip(experts, losses, trained, strict=True):
            if not loss < float("inf"):
                raise NonFiniteError(
                    f"Expert {expert} diverged in epoch {epoch} (loss {loss}). Lower {trajectories.rates}."
                )
            # Rounded after every epoch, kept or not: else the state would depend on which epochs were asked for.
            stored, rounded = trajectories.rounded(expert, state)
            states.append(rounded)
            if epoch in wanted:
                trajectories.record.write_tensors(trajectories.name(expert, epoch), stored)
            on_epoch(expert, epoch, loss)
