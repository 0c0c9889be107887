"""Snapshots and legs of expert trajectories that are kept on the device; a leg is from a start snapshot to its target.

A distillation reads `experts.count` times `distill.max_start_epoch` legs, again and again. They are read from the store
once, as long as all that are kept fit into so many bytes; the one that was used longest ago makes room.

Letters: K students side by side, D shared width, d encoder width.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.distill.experts import Heads
from raydd.distill.heads import Head
from raydd.distill.matching import require_moved
from raydd.distill.products import Weights, side_by_side
from raydd.distill.trajectories import Trajectories
from raydd.memory import free_bytes

Key = TypeVar("Key")
Value = TypeVar("Value")

KEPT_BYTES = 1_000_000_000  # on a CPU: the snapshots of ten experts of our sizes, two each, take 430 MB
LEGS_PART = 4  # of a GPU's free memory a quarter: all legs of 20 experts at published sizes, 5.7 GB, fit on 24 GB


def most_bytes_on(device: str) -> int:
    """The most that all snapshots or legs that are kept may take."""
    return free_bytes(device) // LEGS_PART if device.startswith("cuda") else KEPT_BYTES


def target_at(snapshot: Callable[[int, int], Any], expert: int, epochs: tuple[int, int]) -> Any:
    """An expert's target: its image side after the first of these epochs, and its text head after the second.

    Args:
        snapshot: gives an expert after an epoch.
        expert: which one.
        epochs: of the image side and of the text head.
    """
    image_epoch, text_epoch = epochs
    target = snapshot(expert, image_epoch)
    return target if text_epoch == image_epoch else (target[0], snapshot(expert, text_epoch)[1])


@dataclass(frozen=True)
class Leg:
    """What a student that starts at one snapshot needs of its expert."""

    start: Heads
    """The start snapshot theta_0."""
    delta: Heads
    """theta_0 - theta*, the target being theta*."""
    squared: Float[Tensor, "2"]
    """|theta_0 - theta*|² of the image head and of the text head."""

    @classmethod
    def read(cls, experts: Trajectories[Heads], expert: int, epoch: int, targets: tuple[int, int], device: str) -> Self:
        """The leg of an expert from one epoch to later ones, of the image head and of the text head.

        Raises:
            NonFiniteError: the expert did not move.
            RecordError: a snapshot is missing or damaged.
        """
        start, end = experts.snapshot(expert, epoch), target_at(experts.snapshot, expert, targets)
        delta = [Head(*(a - b for a, b in zip(*heads, strict=True))) for heads in zip(start, end, strict=True)]
        squared = torch.stack([sum((part.square().sum() for part in head), torch.zeros(())) for head in delta])
        require_moved(squared.tolist())
        return cls(_on(start, device), _on(delta, device), squared.to(device))

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return _bytes_of(self.start) + _bytes_of(self.delta)


class _Kept(Generic[Key, Value]):
    """What was read, the latest used last. The oldest makes room where all take more than `most_bytes`."""

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self._most_bytes, self._size = most_bytes, size
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, read: Callable[[], Value]) -> Value:
        """One value, read where it is not kept."""
        value = self._values.pop(key, None) or read()
        self._values[key] = value
        while len(self._values) > 1 and sum(map(self._size, self._values.values())) > self._most_bytes:
            self._values.popitem(last=False)
        return value


class Snapshots:
    """Snapshots that were read, on a device, the latest used last."""

    def __init__(self, experts: Trajectories[Heads], device: str, most_bytes: int) -> None:
        """Nothing is read yet.

        Args:
            experts: whose snapshots are read.
            device: where they are kept.
            most_bytes: of all that are kept; the one that was asked for last is kept in any case.
        """
        self._experts, self._device = experts, device
        self._kept = _Kept[tuple[int, int], Heads](most_bytes, _bytes_of)

    def get(self, expert: int, epoch: int) -> Heads:
        """One snapshot, read where it is not kept.

        Raises:
            RecordError: it is missing or damaged.
        """
        return self._kept.get((expert, epoch), lambda: _on(self._experts.snapshot(expert, epoch), self._device))


class Legs:
    """The legs that were read, the latest used last."""

    def __init__(self, device: str, most_bytes: int) -> None:
        """Nothing is read yet.

        Args:
            device: where legs are kept.
            most_bytes: of all that are kept; the one that was asked for last is kept in any case.
        """
        self._device, self._most_bytes = device, most_bytes
        self._kept = _Kept[tuple[str, ...], Leg](most_bytes, lambda leg: leg.nbytes)

    def get(self, experts: Trajectories[Heads], expert: int, epoch: int, ahead: tuple[int, int]) -> Leg:
        """One leg, read where it is not kept.

        Raises:
            NonFiniteError: the expert did not move.
            RecordError: a snapshot is missing or damaged.
        """
        record = experts.record
        targets = epoch + ahead[0], epoch + ahead[1]
        key = (record.store.root, record.folder, *(experts.name(expert, one) for one in (epoch, *targets)))
        return self._kept.get(key, lambda: Leg.read(experts, expert, epoch, targets, self._device))

    def keep(self, experts: Trajectories[Heads], epochs: Iterable[int], ahead: tuple[int, int]) -> None:
        """Read all legs from these epochs, to targets so many epochs ahead, if they fit.

        Raises:
            NonFiniteError: an expert did not move.
            RecordError: a snapshot is missing or damaged.
        """
        wanted = [(expert, epoch) for expert in range(experts.count) for epoch in epochs]
        for expert, epoch in wanted:
            if self.get(experts, expert, epoch, ahead).nbytes * len(wanted) > self._most_bytes:
                return


@dataclass(frozen=True)
class BothHeads:
    """Image heads of K students and then their text heads, side by side: all layers but the first have one shape."""

    projections: tuple[tuple[Weights, Float[Tensor, "K D"]], tuple[Weights, Float[Tensor, "K D"]]]
    """Weights and biases of the first layers: of the image heads, and of the text heads."""
    fc_weight: Weights
    fc_bias: Float[Tensor, "2*K D"]
    norm_weight: Float[Tensor, "2*K D"]
    norm_bias: Float[Tensor, "2*K D"]

    @classmethod
    def of(cls, students: Sequence[Heads]) -> Self:
        """The heads of these students."""
        images, texts = zip(*students, strict=True)
        both = (*images, *texts)
        first = [
            (
                side_by_side([head.projection_weight for head in heads]),
                torch.stack([head.projection_bias for head in heads]),
            )
            for heads in (images, texts)
        ]
        return cls(
            (first[0], first[1]),
            side_by_side([head.fc_weight for head in both]),
            torch.stack([head.fc_bias for head in both]),
            torch.stack([head.norm_weight for head in both]),
            torch.stack([head.norm_bias for head in both]),
        )


def _bytes_of(heads: Heads) -> int:
    return sum(part.nbytes for head in heads for part in head)


def _on(heads: Sequence[Head], device: str) -> Heads:
    image, text = (Head(*(part.to(device) for part in head)) for head in heads)
    return image, text
