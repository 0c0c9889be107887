"""The data for selections: the real pairs, how warmed-up heads embed them, and how training forgot them.

A pair is a caption with its image, so pairs are identified by their captions. A selection has at most one pair per
image, like the start pairs of a distillation.

Letters: I images, C captions (pairs), D and E widths of an image's and of a text's part.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int16
from torch import Tensor

from raydd.errors import ConfigError

WARM_UP = 5  # epochs for which the heads train before they embed the pairs


@dataclass(frozen=True)
class Joint:
    """Joint features x = [u, v] of all pairs: u the image's embedding, v the caption's, both on the unit sphere.

    An image is stored once for all its captions. No matrix of pairs times pairs, or of pairs times chosen pairs, is
    ever formed.
    """

    images: Float[Tensor, "I D"]
    texts: Float[Tensor, "C E"]
    image_of_text: Int[Tensor, "C"]

    def row(self, pair: int) -> tuple[Float[Tensor, "D"], Float[Tensor, "E"]]:
        """Return the two halves of one pair's joint feature."""
        return self.images[self.image_of_text[pair]], self.texts[pair]

    def products(self, image: Float[Tensor, "D"], text: Float[Tensor, "E"]) -> Float[Tensor, "C"]:
        """Return the inner product of each pair's joint feature with [image, text]."""
        return (self.images @ image)[self.image_of_text] + self.texts @ text

    def mean(self) -> tuple[Float[Tensor, "D"], Float[Tensor, "E"]]:
        """Return the mean joint feature of all pairs."""
        captions = torch.bincount(self.image_of_text, minlength=len(self.images))
        return captions.to(self.images.dtype) @ self.images / len(self.texts), self.texts.mean(0)


@dataclass(frozen=True)
class Forgetting:
    """How often a pair went from ranked right to ranked wrong during training, and whether it was ever ranked right."""

    events: Int16[Tensor, "C"]
    learned: Bool[Tensor, "C"]


@dataclass(frozen=True)
class Evidence:
    """The pairs, and functions that compute facts about them when a selection needs these."""

    image_of_text: Int[Tensor, "C"]
    joint: Callable[[int], Joint]
    """Takes a number of epochs; returns the joint features under heads trained for that long."""
    forgetting: Callable[[int], Forgetting]
    """Takes a number of epochs; returns the forgetting over the first epochs of the heads' training."""


Select = Callable[[Evidence, int, int], Int[Tensor, "N"]]
"""Takes the evidence, the number of pairs N and a seed; returns the chosen captions, each of a different image."""


def require_enough_images(pairs: int, images: int) -> None:
    """Refuse more pairs than there are training images, since a pair has an image of its own.

    Raises:
        ConfigError: there are fewer training images.
    """
    if pairs > images:
        raise ConfigError(f"distill.pairs is {pairs}, but train has {images} images. Lower distill.pairs.")


def choose_greedily(
    image_of_text: Int[Tensor, "C"], pairs: int, choose_next: Callable[[Bool[Tensor, "C"]], int]
) -> Int[Tensor, "N"]:
    """Choose pairs one after the other; `choose_next` returns the next, given which pairs have a free image."""
    require_enough_images(pairs, len(image_of_text.unique()))
    free = torch.ones(len(image_of_text), dtype=torch.bool)
    chosen = []
    for _ in range(pairs):
        chosen.append(choose_next(free))
        free &= image_of_text != image_of_text[chosen[-1]]
    return torch.tensor(chosen)


def first_of_each_image(image_of_text: Int[Tensor, "C"], order: Int[Tensor, "C"], pairs: int) -> Int[Tensor, "N"]:
    """Return the first `pairs` captions of an order, skipping further captions of the same image."""
    require_enough_images(pairs, len(image_of_text.unique()))
    first = torch.full((int(image_of_text.max()) + 1,), len(order)).scatter_reduce_(
        0, image_of_text[order], torch.arange(len(order)), "amin"
    )
    return order[first[first < len(order)].sort().values[:pairs]]
