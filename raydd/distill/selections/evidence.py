"""What a selection looks at: the real pairs, how warmed-up heads embed them, how training forgot them.

A pair is a caption with its image, so pairs are named by their captions. A selection holds one pair an image at most,
as a distillation starts from.

Letters: I images, C captions (pairs), D and E widths of an image's and of a text's part.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int16
from torch import Tensor

from raydd.errors import ConfigError

WARM_UP = 5  # epochs of the heads before they embed the pairs


@dataclass(frozen=True)
class Joint:
    """Joint features x = [u, v] of all pairs: u the image's embedding, v the caption's, both on the unit sphere.

    Images are kept once for all their captions. Nothing of a size of pairs times pairs, or of pairs times chosen pairs,
    is ever formed.
    """

    images: Float[Tensor, "I D"]
    texts: Float[Tensor, "C E"]
    image_of_text: Int[Tensor, "C"]

    def row(self, pair: int) -> tuple[Float[Tensor, "D"], Float[Tensor, "E"]]:
        """The two halves of one pair's joint feature."""
        return self.images[self.image_of_text[pair]], self.texts[pair]

    def products(self, image: Float[Tensor, "D"], text: Float[Tensor, "E"]) -> Float[Tensor, "C"]:
        """The inner product of every pair's joint feature with [image, text]."""
        return (self.images @ image)[self.image_of_text] + self.texts @ text

    def mean(self) -> tuple[Float[Tensor, "D"], Float[Tensor, "E"]]:
        """The mean joint feature of all pairs."""
        captions = torch.bincount(self.image_of_text, minlength=len(self.images))
        return captions.to(self.images.dtype) @ self.images / len(self.texts), self.texts.mean(0)


@dataclass(frozen=True)
class Forgetting:
    """How often training went from ranking a pair right to ranking it wrong, and whether it ever ranked it right."""

    events: Int16[Tensor, "C"]
    learned: Bool[Tensor, "C"]


@dataclass(frozen=True)
class Evidence:
    """The pairs, and what can be asked about them; an answer is made when a selection asks for it."""

    image_of_text: Int[Tensor, "C"]
    joint: Callable[[int], Joint]
    """Joint features under heads that were trained for so many epochs."""
    forgetting: Callable[[int], Forgetting]
    """Forgetting over the first so many epochs of the heads' training."""


Select = Callable[[Evidence, int, int], Int[Tensor, "N"]]
"""From the evidence, the number of pairs N and a seed to the chosen captions, each of another image."""


def require_images(image_of_text: Int[Tensor, "C"], pairs: int) -> None:
    """Refuse to choose more pairs than there are images.

    Raises:
        ConfigError: there are fewer training images than that.
    """
    images = int(image_of_text.unique().numel())
    if pairs > images:
        raise ConfigError(f"distill.pairs is {pairs}, but train has {images} images. Lower distill.pairs.")


def greedily(image_of_text: Int[Tensor, "C"], pairs: int, best: Callable[[Bool[Tensor, "C"]], int]) -> Int[Tensor, "N"]:
    """Take `pairs` pairs one after the other, each what `best` names among the pairs whose image is still free."""
    require_images(image_of_text, pairs)
    free = torch.ones(len(image_of_text), dtype=torch.bool)
    chosen = []
    for _ in range(pairs):
        chosen.append(best(free))
        free &= image_of_text != image_of_text[chosen[-1]]
    return torch.tensor(chosen)


def first_of_each_image(image_of_text: Int[Tensor, "C"], order: Int[Tensor, "C"], pairs: int) -> Int[Tensor, "N"]:
    """The first `pairs` captions in an order, later captions of the same image passed over."""
    require_images(image_of_text, pairs)
    first = torch.full((int(image_of_text.max()) + 1,), len(order)).scatter_reduce_(
        0, image_of_text[order], torch.arange(len(order)), "amin"
    )
    return order[first[first < len(order)].sort().values[:pairs]]
