"""Legs of expert trajectories, cached on the device.

A leg is what a distillation step reads of an expert: a start snapshot, and the difference from there to the target. A
distillation reads `experts.count` times `distill.max_start_epoch` legs, again and again. A leg is read from the store
once, as long as all cached legs fit into a limit in bytes; otherwise the least recently used leg is dropped.

Letters: K students side by side, D width of the shared space, d and e encoder widths.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.distill.byte_cache import ByteCache
from raydd.distill.experts import Heads
from raydd.distill.heads import Head, on
from raydd.distill.products import stacked
from raydd.distill.trajectories import Trajectories
from raydd.errors import NonFiniteError
from raydd.memory import free_bytes

KEPT_LEG_BYTES = 1_000_000_000  # on a CPU; the legs of ten experts of our sizes, one leg each, take 430 MB
LEGS_PART = 4  # a quarter of a GPU's free memory: all legs of 20 experts at published sizes, 5.7 GB, fit on 24 GB


def most_bytes_on(device: str) -> int:
    """Return the limit in bytes on a device, for cached legs or for the weights that are kept of student steps."""
    return free_bytes(device) // LEGS_PART if device.startswith("cuda") else KEPT_LEG_BYTES


def require_moved(distances: Iterable[Float[Tensor, ""]]) -> None:
    """Check the squared distances from an expert's start snapshot to its target.

    Raises:
        NonFiniteError: one of the distances is zero.
    """
    if any(float(distance) == 0 for distance in distances):
        raise NonFiniteError(
            "An expert's start and target snapshots are equal. Train experts with a larger experts.lr."
        )


@dataclass(frozen=True)
class Leg:
    """What a student needs of its expert: the snapshot where it starts, and the difference from there to the target."""

    start: Heads
    """The start snapshot theta_0."""
    delta: Heads
    """theta_0 - theta*, where theta* is the target."""
    squared: Float[Tensor, "2"]
    """|theta_0 - theta*|² of the image head and of the text head."""

    @classmethod
    def read(cls, experts: Trajectories[Heads], expert: int, epoch: int, targets: tuple[int, int], device: str) -> Self:
        """Read an expert's leg from one epoch to the target epochs of the image head and of the text head.

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
        """Return the leg between two snapshots.

        Raises:
            NonFiniteError: the snapshots are equal.
        """
        image, text = (_difference(*ends) for ends in zip(start, target, strict=True))
        squared = torch.stack([_squared_length(image), _squared_length(text)])
        require_moved(squared)
        image_start, text_start, image_delta, text_delta = (on(head, device) for head in (*start, image, text))
        return cls((image_start, text_start), (image_delta, text_delta), squared.to(device))

    @property
    def nbytes(self) -> int:
        """Size of the leg's tensors in bytes."""
        return _num_bytes(self.start) + _num_bytes(self.delta)


class Legs:
    """A cache of legs, in the order of their last use."""

    def __init__(self, device: str, most_bytes: int) -> None:
        """Start with an empty cache.

        Args:
            device: where legs are cached.
            most_bytes: limit for all cached legs; the leg that was asked for last is cached in any case.
        """
        self._device, self._most_bytes = device, most_bytes
        self._legs = ByteCache[Leg](most_bytes)

    @classmethod
    def on(cls, device: str) -> Self:
        """Start an empty cache with the device's limit."""
        return cls(device, most_bytes_on(device))

    def get(self, experts: Trajectories[Heads], expert: int, epoch: int, ahead: tuple[int, int]) -> Leg:
        """Return one leg; read it from the store unless it is cached.

        Raises:
            NonFiniteError: the expert did not move.
            RecordError: a snapshot is missing or damaged.
        """
        record = experts.record
        targets = epoch + ahead[0], epoch + ahead[1]
        key = (
            record.store.root,
            record.folder,
            *(experts.name(expert, snapshot_epoch) for snapshot_epoch in (epoch, *targets)),
        )
        return self._legs.get(key, lambda: Leg.read(experts, expert, epoch, targets, self._device))

    def keep(self, experts: Trajectories[Heads], epochs: Iterable[int], ahead: tuple[int, int]) -> None:
        """Read all legs that start at these epochs, with targets `ahead` epochs later, if they fit.

        Raises:
            NonFiniteError: an expert did not move.
            RecordError: a snapshot is missing or damaged.
        """
        leg_starts = [(expert, epoch) for expert in range(experts.count) for epoch in epochs]
        for expert, epoch in leg_starts:
            if self.get(experts, expert, epoch, ahead).nbytes * len(leg_starts) > self._most_bytes:
                return


@functools.cache
def shared_legs(device: str) -> Legs:
    """Return the cache of this process for a device, which its trials share; `cache_clear` frees its memory."""
    return Legs.on(device)


@dataclass(frozen=True)
class BothHeads:
    """The image heads of K students, then their text heads, side by side: all layers but the first have one shape."""

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
        """Put the heads of these students side by side."""
        images, texts = zip(*students, strict=True)
        all_heads = (*images, *texts)
        projections = [
            (
                stacked([head.projection_weight for head in heads]),
                torch.stack([head.projection_bias for head in heads]),
            )
            for heads in (images, texts)
        ]
        return cls(
            (projections[0], projections[1]),
            stacked([head.fc_weight for head in all_heads]),
            torch.stack([head.fc_bias for head in all_heads]),
            torch.stack([head.norm_weight for head in all_heads]),
            torch.stack([head.norm_bias for head in all_heads]),
        )


def _difference(start: Head, target: Head) -> Head:
    return Head(*(start_part - target_part for start_part, target_part in zip(start, target, strict=True)))


def _squared_length(head: Head) -> Float[Tensor, ""]:
    """Return |Δ|², over all parameters."""
    return torch.stack([part.flatten() @ part.flatten() for part in head]).sum()


def _num_bytes(heads: Heads) -> int:
    return sum(part.nbytes for head in heads for part in head)
