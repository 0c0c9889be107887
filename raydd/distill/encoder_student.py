"""The student of protocol A: plain SGD on synthetic pairs that trains the whole image encoder and the text head.

The image encoder has no projection head, as published: its features are the embedding, and the text head's output has
the same width. The rest of a student step (blending, text head, loss) is small, so plain autograd differentiates it.

Letters: B minibatch, S side in pixels, d and e widths of the image and the text features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.blending import blend
from raydd.distill.encoder_passes import EncodedImages, TrainedEncoder, Weights, leaves, moved, scaled
from raydd.distill.heads import Head, project, to_sphere
from raydd.distill.losses import Loss


class Networks(NamedTuple):
    """The weights of both trained networks; or a gradient or a direction of these weights."""

    image: Weights
    """The image encoder."""
    text: Weights
    """The text head, by the names of `Head`'s parts."""

    @classmethod
    def of(cls, image: Weights, text: Head) -> Self:
        """Combine an encoder's weights and a text head."""
        return cls(image, text._asdict())

    def moved(self, direction: "Networks", factors: tuple[float, float]) -> "Networks":
        """Return self + factors · direction, with one factor for each side."""
        return Networks(moved(self.image, direction.image, factors[0]), moved(self.text, direction.text, factors[1]))

    def scaled(self, factors: tuple[float, float]) -> "Networks":
        """Return factors · self, with one factor for each side."""
        return Networks(scaled(self.image, factors[0]), scaled(self.text, factors[1]))

    @property
    def nbytes(self) -> int:
        """Size of all weights in bytes."""
        return sum(weight.nbytes for weights in self for weight in weights.values())

    def to(self, device: str) -> "Networks":
        """Return the same networks on a device."""
        return Networks(*({name: weight.to(device) for name, weight in weights.items()} for weights in self))


def loss_and_gradient(
    encoder: TrainedEncoder,
    networks: Networks,
    pixels: Float[Tensor, "B 3 S S"],
    loss_of: Callable[[Float[Tensor, "B d"], Weights], Float[Tensor, ""]],
) -> tuple[Float[Tensor, ""], Networks]:
    """Return a loss and its gradient at the weights of both networks, without a graph.

    Args:
        encoder: the image encoder.
        networks: the weights at which to take the gradient.
        pixels: images in 0 to 1.
        loss_of: returns the loss, given the images' features and the weights of the text head.
    """
    encoded, text = EncodedImages(encoder, networks.image, pixels), leaves(networks.text)
    loss = loss_of(encoded.features, text)
    at_features, *at_text = torch.autograd.grad(loss, [encoded.features, *text.values()])
    return loss.detach(), Networks(encoded.gradient(at_features), dict(zip(text, at_text, strict=True)))


@dataclass(frozen=True)
class StudentStep:
    """The part of a student step after the encoder: from the features of a minibatch to the loss."""

    loss: Loss
    temperature: float
    """tau, by which the cosines are divided."""
    permutation: Int[Tensor, "B"]
    """Blending partners, as positions within the minibatch."""
    ratios: tuple[float, float]
    """Blend ratios of the image and of the text features."""

    def __call__(
        self,
        features: Float[Tensor, "B d"],
        text: Weights,
        texts: Float[Tensor, "B e"],
        similarity: Float[Tensor, "B B"],
        parameters: Mapping[str, Tensor],
    ) -> Float[Tensor, ""]:
        """Return the student's loss on a minibatch; `parameters` are the loss's own parameters."""
        images, texts = (
            blend(rows, rows[self.permutation], ratio) if ratio else rows
            for rows, ratio in zip((features, texts), self.ratios, strict=True)
        )
        logits = to_sphere(images) @ to_sphere(project(Head(**text), texts)).T / self.temperature
        return self.loss(logits, similarity, parameters)
