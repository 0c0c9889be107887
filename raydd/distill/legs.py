"""Legs of expert trajectories: from a start snapshot to its target, kept on the device for many distillations.

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
from raydd.distill.heads import Head
from raydd.distill.matching import require_moved
from raydd.distill.products import Weights, side_by_side
from raydd.distill.trajectories import Trajectories


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
    def read(cls, experts: Trajectories[Heads], expert: int, epoch: int, target: int, device: str) -> Self:
        """The leg of an expert from one epoch to a later one.

        Raises:
            NonFiniteError: the expert did not move.
            RecordError: a snapshot is missing or damaged.
        """
        start, end = experts.snapshot(expert, epoch), experts.snapshot(expert, target)
        delta = [Head(*(a - b for a, b in zip(*heads, strict=True))) for heads in zip(start, end, strict=True)]
        squared = torch.stack([sum((part.square().sum() for part in head), torch.zeros(())) for head in delta])
        require_moved(squared.tolist())
        return cls(_on(start, device), _on(delta, device), squared.to(device))

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(part.nbytes for head in (*self.start, *self.delta) for part in head)


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

    def get(self, experts: Trajectories[Heads], expert: int, epoch: int, target: int) -> Leg:
        """One leg, read where it is not kept.

        Raises:
            NonFiniteError: the expert did not move.
            RecordError: a snapshot is missing or damaged.
        """
        record = experts.record
        key = (record.store.root, record.folder, experts.name(expert, epoch), experts.name(expert, target))
        leg = self._kept.pop(key, None) or Leg.read(experts, expert, epoch, target, self._device)
        self._kept[key] = leg
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self._most_bytes:
            self._kept.popitem(last=False)
        return leg

    def keep(self, experts: Trajectories[Heads], epochs: Iterable[int], length: int) -> None:
        """Read all legs from these epochs, of so many epochs each, if they fit.

        Raises:
            NonFiniteError: an expert did not move.
            RecordError: a snapshot is missing or damaged.
        """
        wanted = [(expert, epoch) for expert in range(experts.count) for epoch in epochs]
        for expert, epoch in wanted:
            if self.get(experts, expert, epoch, epoch + length).nbytes * len(wanted) > self._most_bytes:
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


def _on(heads: Sequence[Head], device: str) -> Heads:
    image, text = (Head(*(part.to(device) for part in head)) for head in heads)
    return image, text
