"""Expert trajectories of protocol A: the whole image encoder and the text head trained on all real pairs, from pixels.

A snapshot is stored as half-precision differences: of the encoder to its pretrained weights, and of the text head to
its initial state, which can be drawn again from its seed. `raydd.distill.trajectories` describes how trajectories are
extended.

Letters: B minibatch, S side in pixels, C captions, d and e widths of the image and the text encoder.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

from raydd.config import ExpertsConfig
from raydd.data.feature_rows import CaptionRows
from raydd.device import in_tf32, sent
from raydd.distill.byte_cache import ByteCache
from raydd.distill.encoder_passes import TrainedEncoder, Weights
from raydd.distill.encoder_student import Networks, loss_and_gradient
from raydd.distill.experts import expert_loss
from raydd.distill.heads import Head, dropout_mask, initial_head, project, to_sphere
from raydd.distill.trajectories import Trajectories
from raydd.store import Record

VERSION = 2  # 2: sealed to their place
Batches = Iterable[tuple[Int[Tensor, "B"], UInt8[Tensor, "B 3 S S"]]]


@dataclass(frozen=True)
class EncoderExperts(Trajectories[Networks]):
    """Expert trajectories in the store: `count` of them, read snapshot by snapshot."""

    record: Record
    pretrained: Weights
    """The image encoder's weights from which every expert starts, on the CPU."""
    text_width: int
    width: int
    """Width of the image encoder's features, and therefore of the shared space."""
    first_seed: int
    count: int
    rates: ClassVar[str] = "experts.encoder_lr or experts.lr"

    def initial(self, expert: int) -> Networks:
        """Return the pretrained encoder and a fresh text head."""
        generator = Generator().manual_seed(self.first_seed + expert)
        return Networks.of(self.pretrained, initial_head(self.text_width, self.width, generator))

    def differences(self, start: Networks, state: Networks) -> dict[str, Tensor]:
        """Return the difference of each weight of each side, by name."""
        return {
            f"{side}.{name}": part.cpu() - start_weights[name]
            for side, weights, start_weights in zip(Networks._fields, state, start, strict=True)
            for name, part in weights.items()
        }

    def moved(self, start: Networks, differences: Mapping[str, Tensor]) -> Networks:
        """Return both networks after adding these differences."""
        sides = (
            {name: part + differences[f"{side}.{name}"].float() for name, part in weights.items()}
            for side, weights in zip(Networks._fields, start, strict=True)
        )
        return Networks(*sides)


class KeptNetworks:
    """A cache of snapshots on a GPU, in the order of their last use."""

    def __init__(self, experts: Trajectories[Networks], device: str, most_bytes: int) -> None:
        """Start with an empty cache.

        Args:
            experts: where snapshots are read from.
            device: where snapshots are cached.
            most_bytes: limit for all cached snapshots; the two that were asked for last are cached in any case.
        """
        self._experts, self._device = experts, device
        self._networks = ByteCache[Networks](most_bytes, always=2)

    def get(self, expert: int, epoch: int) -> Networks:
        """Return a snapshot on the device; read it from the store unless it is cached.

        Raises:
            RecordError: the snapshot is missing or damaged.
        """
        return self._networks.get((expert, epoch), lambda: self._experts.snapshot(expert, epoch).to(self._device))


@in_tf32()
def train_epoch(
    encoder: TrainedEncoder,
    networks: Networks,
    batches: Batches,
    texts: CaptionRows,
    recipe: ExpertsConfig,
    *,
    lr_multipliers: Sequence[float],
    seed: int,
    device: str,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[float, Networks]:
    """Train for one epoch by plain SGD on `experts.loss`; return the mean loss and the networks after the epoch.

    Args:
        encoder: the image encoder, on `device`.
        networks: the networks before the epoch.
        batches: minibatches of captions, each with an augmented view of every caption's image.
        texts: features of all captions.
        recipe: loss, learning rates, dropout and temperature.
        lr_multipliers: LR multiplier of each minibatch.
        seed: seed of the dropout masks.
        device: where to compute.
        on_batch: called after each minibatch.

    Raises:
        ConfigError: the loss is a user's own loss and fails.
    """
    loss_of = expert_loss(recipe)
    generator, losses, networks = Generator(device).manual_seed(seed), [], networks.to(device)
    for (captions, pixels), multiplier in zip(batches, lr_multipliers, strict=True):
        minibatch_texts = sent(texts[captions], device).float()

        def loss_after_encoder(
            features: Float[Tensor, "B d"], text: Weights, rows: Float[Tensor, "B e"] = minibatch_texts
        ) -> Float[Tensor, ""]:
            dropout = dropout_mask((len(rows), features.shape[1]), recipe.dropout, generator)
            projected = project(Head(**text), rows, dropout)
            return loss_of(to_sphere(features) @ to_sphere(projected).T / recipe.temperature)

        loss, gradient = loss_and_gradient(encoder, networks, sent(pixels, device) / 255, loss_after_encoder)
        networks = networks.moved(gradient, (-recipe.encoder_lr * multiplier, -recipe.lr * multiplier))
        losses.append(loss)
        on_batch()
    return float(torch.stack(losses).mean()), networks


def minibatches(captions: int, size: int, seed: int) -> list[list[int]]:
    """Return all captions in shuffled minibatches; a short last minibatch is dropped."""
    order = torch.randperm(captions, generator=Generator().manual_seed(seed)).tolist()
    size = min(size, captions)
    return [order[begin : begin + size] for begin in range(0, captions - size + 1, size)]
