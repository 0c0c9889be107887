"""Expert trajectories in the store, for any kind of expert: snapshots by expert and epoch, extended when needed.

The training of an expert continues from the rounded state that is stored. So a stored snapshot is the trajectory's
exact state: a later run on the same kind of device can extend the trajectory to more epochs, read a prefix of it, or
repeat it, and gets the same numbers. Each epoch draws from a generator seeded by (seed, epoch), so no random state has
to be stored.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from raydd.config import ExpertsConfig
from raydd.distill.content import named_loss
from raydd.errors import NonFiniteError
from raydd.store import Record

State = TypeVar("State")


class Trajectories(ABC, Generic[State]):
    """Trajectories of one recipe: `count` experts, read snapshot by snapshot."""

    record: Record
    """Record of all trajectories of one recipe on the same data, of any number and length."""
    first_seed: int
    count: int
    rates: ClassVar[str]
    """The settings to lower when an expert diverges."""

    @abstractmethod
    def initial(self, expert: int) -> State:
        """Return an expert's state before its first step."""

    @abstractmethod
    def differences(self, start: State, state: State) -> dict[str, Tensor]:
        """Return state - start in single precision, by the names under which the parts are stored."""

    @abstractmethod
    def moved(self, start: State, differences: Mapping[str, Tensor]) -> State:
        """Return start + differences."""

    def snapshot(self, expert: int, epoch: int) -> State:
        """Return an expert's state after an epoch, on the CPU; epoch 0 is the initial state.

        Raises:
            RecordError: the snapshot is missing from the store, or damaged.
        """
        return self.from_start(self.initial(expert), expert, epoch)

    def from_start(self, start: State, expert: int, epoch: int) -> State:
        """Return an expert's state after an epoch, as `snapshot` does, given its initial state, on the CPU."""
        return start if epoch == 0 else self.moved(start, self.record.map_tensors(self.name(expert, epoch)))

    def rounded(self, expert: int, start: State, state: State) -> tuple[dict[str, Tensor], State]:
        """Return the half-precision differences to the initial state, as stored, and the state that they represent.

        Args:
            expert: its number, for the error.
            start: the expert's initial state.
            state: its state now. Rounding gives the same on every device.

        Raises:
            NonFiniteError: a difference is not finite in half precision.
        """
        stored = {name: difference.half() for name, difference in self.differences(start, state).items()}
        if not bool(torch.stack([difference.isfinite().all() for difference in stored.values()]).all()):
            raise NonFiniteError(f"Expert {expert} left the range of half precision. Lower {self.rates}.")
        return stored, self.moved(start, stored)

    def has(self, expert: int, epoch: int) -> bool:
        """Return whether the store has a snapshot."""
        return epoch == 0 or self.record.has(self.name(expert, epoch))

    def missing(self, epochs: Collection[int]) -> list[int]:
        """Return the experts that lack the snapshot of any of these epochs."""
        return [expert for expert in range(self.count) if not self.has_all(expert, epochs)]

    def has_all(self, expert: int, epochs: Collection[int]) -> bool:
        """Return whether the store has one expert's snapshots of all these epochs."""
        return all(self.has(expert, epoch) for epoch in epochs)

    def name(self, expert: int, epoch: int) -> str:
        """Return the name of a snapshot's file inside the record."""
        return f"seed-{self.first_seed + expert:06}/epoch-{epoch:03}.safetensors"


def content_of(recipe: ExpertsConfig) -> dict[str, Any]:
    """Return the settings of a recipe that decide its trajectories, for heads and for a trained encoder alike.

    The defaults, a constant learning rate and the loss InfoNCE, are left out.
    """
    content = {name: getattr(recipe, name) for name in ("lr", "batch_size", "dropout", "temperature")}
    content |= {"anneal": recipe.anneal} if recipe.anneal else {}
    return content | (named_loss(recipe.loss) if recipe.loss != "infonce" else {})


def extend(
    trajectories: Trajectories[State],
    experts: Sequence[int],
    snapshot_epochs: Collection[int],
    train_epoch: Callable[[Sequence[State], int, Sequence[int]], tuple[Sequence[float], Sequence[State]]],
    *,
    at_once: int = 1,
    on_epoch: Callable[[int, int, float], None] = lambda expert, epoch, loss: None,
    on_device: Callable[[State], State] = lambda state: state,
) -> None:
    """Train experts on from their last useful snapshots, and store the snapshots of `snapshot_epochs` that are missing.

    Args:
        trajectories: where snapshots are read from and written to.
        experts: numbers of the experts.
        snapshot_epochs: epochs after which a snapshot is wanted.
        train_epoch: takes states, the epoch's number and each state's seed; returns mean losses and new states.
        at_once: how many experts `train_epoch` takes; the experts of one call lack the same epochs.
        on_epoch: called after each epoch of an expert with the expert, the epoch and its mean loss.
        on_device: copies a state to the device where states stay between epochs; only snapshots return to the CPU.

    Raises:
        NonFiniteError: an expert's loss became NaN or infinite.
    """
    groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for expert in experts:
        missing_epochs = tuple(epoch for epoch in sorted(snapshot_epochs) if not trajectories.has(expert, epoch))
        if missing_epochs:
            begin = max(epoch for epoch in range(missing_epochs[0]) if trajectories.has(expert, epoch))
            groups.setdefault((begin, missing_epochs), []).append(expert)
    for (begin, missing_epochs), numbers in groups.items():
        for first in range(0, len(numbers), at_once):
            group = numbers[first : first + at_once]
            _train_group(trajectories, group, begin, missing_epochs, train_epoch, on_epoch, on_device)


def epoch_seed(first_seed: int, expert: int, epoch: int) -> int:
    """Return the seed for the random draws of an expert in an epoch."""
    return (first_seed + expert) * 1_000_003 + epoch


def _train_group(
    trajectories: Trajectories[State],
    experts: Sequence[int],
    begin: int,
    snapshot_epochs: Collection[int],
    train_epoch: Callable[[Sequence[State], int, Sequence[int]], tuple[Sequence[float], Sequence[State]]],
    on_epoch: Callable[[int, int, float], None],
    on_device: Callable[[State], State],
) -> None:
    """Train experts together, from their snapshots after epoch `begin` to the last epoch of `snapshot_epochs`."""
    initial = [trajectories.initial(expert) for expert in experts]
    states: Sequence[State] = [
        on_device(trajectories.from_start(start, expert, begin)) for expert, start in zip(experts, initial, strict=True)
    ]
    starts = [on_device(start) for start in initial]
    del initial
    for epoch in range(begin + 1, max(snapshot_epochs) + 1):
        seeds = [epoch_seed(trajectories.first_seed, expert, epoch) for expert in experts]
        losses, trained = train_epoch(states, epoch, seeds)
        states = []
        for expert, start, loss, state in zip(experts, starts, losses, trained, strict=True):
            if not loss < float("inf"):
                raise NonFiniteError(
                    f"Expert {expert} diverged in epoch {epoch} (loss {loss}). Lower {trajectories.rates}."
                )
            # Round after every epoch, stored or not. Otherwise the state would depend on the epochs asked for.
            stored, rounded = trajectories.rounded(expert, start, state)
            states.append(rounded)
            if epoch in snapshot_epochs:
                on_cpu = {name: difference.cpu() for name, difference in stored.items()}
                trajectories.record.write_tensors(trajectories.name(expert, epoch), on_cpu)
            on_epoch(expert, epoch, loss)
