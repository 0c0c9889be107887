"""Legs of expert trajectories, kept on the device: a leg is from a start snapshot to its target.

A distillation reads `experts.count` times `distill.max_start_epoch` legs, again and again. They are read from the store
once, as long as all that are kept fit into so many bytes; the one that was used longest ago makes room.

Letters: K students side by side, D shared width, d encoder width.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.distill.experts import Heads
from raydd.distill.heads import on
from raydd.distill.products import stacked
from raydd.distill.student import Way
from raydd.distill.trajectories import Trajectories
from raydd.errors import NonFiniteError
from raydd.memory import free_bytes

KEPT_LEG_BYTES = 1_000_000_000  # on a CPU: a leg of each of ten experts of our sizes takes 430 MB
LEGS_PART = 4  # of a GPU's free memory a quarter: all legs of 20 experts at published sizes, 5.7 GB, fit on 24 GB


def most_bytes_on(device: str) -> int:
    """The most that what is kept of experts or of a walk may take there."""
    return free_bytes(device) // LEGS_PART if device.startswith("cuda") else KEPT_LEG_BYTES


def require_moved(distances: Iterable[Float[Tensor, ""]]) -> None:
    """Check the squared distances from an expert's start snapshot to its target.

    Raises:
        NonFiniteError: one of them is zero.
    """
    if any(float(distance) == 0 for distance in distances):
        raise NonFiniteError(
            "An expert's start and target snapshots are equal. Train experts with a larger experts.lr."
        )


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
        image_epoch, text_epoch = targets
        image, text = experts.snapshot(expert, image_epoch)
        if text_epoch != image_epoch:
            _, text = experts.snapshot(expert, text_epoch)
        return cls.between(experts.snapshot(expert, epoch), (image, text), device)

    @classmethod
    def between(cls, start: Heads, target: Heads, device: str = "cpu") -> Self:
        """The leg between two snapshots.

        Raises:
            NonFiniteError: they are equal.
        """
        image, text = (Way.between(*ends) for ends in zip(start, target, strict=True))
        require_moved((image.squared, text.squared))
        squared = torch.stack([image.squared, text.squared])
        ends = (*start, image.delta, text.delta)
        image_start, text_start, image_delta, text_delta = (on(head, device) for head in ends)
        return cls((image_start, text_start), (image_delta, text_delta), squared.to(device))

    @property
    def ways(self) -> tuple[Way, Way]:
        """Of the image head and of the text head."""
        return Way(self.delta[0], self.squared[0]), Way(self.delta[1], self.squared[1])

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return _bytes_of(self.start) + _bytes_of(self.delta)


class Legs:
    """The legs that were read, the latest used last."""

    def __init__(self, device: str, most_bytes: int) -> None:
        """Nothing is read yet.

        Args:
            device: where legs are kept.
            most_bytes: of all that are kept; the one that was asked for last is kept in any case.
        """
        self._device, self._most_bytes = device, most_bytes
        self._kept: OrderedDict[tuple[str, ...], Leg] = OrderedDict()

    def get(self, experts: Trajectories[Heads], expert: int, epoch: int, ahead: tuple[int, int]) -> Leg:
        """One leg, read where it is not kept.

        Raises:
            NonFiniteError: the expert did not move.
            RecordError: a snapshot is missing or damaged.
        """
        record = experts.record
        targets = epoch + ahead[0], epoch + ahead[1]
        key = (record.store.root, record.folder, *(experts.name(expert, one) for one in (epoch, *targets)))
        leg = self._kept.pop(key, None) or Leg.read(experts, expert, epoch, targets, self._device)
        self._kept[key] = leg
        while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self._most_bytes:
            self._kept.popitem(last=False)
        return leg

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

    projections: tuple[
        tuple[Float[Tensor, "K D d"] | tuple[Float[Tensor, "D d"], ...], Float[Tensor, "K D"]],
        tuple[Float[Tensor, "K D e"] | tuple[Float[Tensor, "D e"], ...], Float[Tensor, "K D"]],
    ]
    """Weights and biases of the first layers: of the image heads, and of the text heads."""
    fc_weight: Float[Tensor, "2*K D D"] | tuple[Float[Tensor, "D D"], ...]
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
                stacked([head.projection_weight for head in heads]),
                torch.stack([head.projection_bias for head in heads]),
            )
            for heads in (images, texts)
        ]
        return cls(
            (first[0], first[1]),
            stacked([head.fc_weight for head in both]),
            torch.stack([head.fc_bias for head in both]),
            torch.stack([head.norm_weight for head in both]),
            torch.stack([head.norm_bias for head in both]),
        )


def _bytes_of(heads: Heads) -> int:
    return sum(part.nbytes for head in heads for part in head)
