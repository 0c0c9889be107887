"""The real training pairs for objectives: cached features, standardised by their own mean and standard deviation.

A standardised feature has mean 0 and deviation 1 over the real pairs. So no dimension of an encoder outweighs the
others only by its scale, and neither encoder outweighs the other.

Letters: C captions, n images, V views, B pairs of a minibatch, d and e widths of the image and the text encoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from raydd.data.features import SplitFeatures

_CHUNK = 4096  # pairs in memory at once


@dataclass(frozen=True)
class RealPairs:
    """The real training pairs, and the mean and standard deviation of each of their features."""

    train: SplitFeatures
    image_spread: Float[Tensor, "2 d"]
    text_spread: Float[Tensor, "2 e"]

    def minibatch(self, size: int, generator: Generator) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B e"]]:
        """Draw images and captions of `size` pairs without repetition, each image in one of its views."""
        captions = torch.randperm(len(self.train.image_of_text), generator=generator)[:size]
        views = torch.randint(self.train.images.shape[1], (len(captions),), generator=generator)
        images = self.train.images.gather(self.train.image_of_text[captions], views)
        return images, self.train.texts[captions].float()

    def all(self) -> Iterator[tuple[Float[Tensor, "B d"], Float[Tensor, "B e"]]]:
        """Yield all pairs in chunks; each image is the mean of its views."""
        return self.chunks_of(torch.arange(len(self.train.image_of_text)))

    def chunks_of(self, captions: Int[Tensor, "S"]) -> Iterator[tuple[Float[Tensor, "B d"], Float[Tensor, "B e"]]]:
        """Yield the pairs of these captions in chunks; each image is the mean of its views."""
        views = self.train.images.shape[1]
        for chunk in captions.split(_CHUNK):
            indices = self.train.image_of_text[chunk]
            images = sum((self.train.images.gather(indices, view) for view in range(views)), torch.zeros(())) / views
            yield images, self.train.texts[chunk].float()

    def standardised(
        self, images: Float[Tensor, "B d"], texts: Float[Tensor, "B e"]
    ) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B e"]]:
        """Standardise images and texts, each by its own mean and deviation over the real pairs."""
        return standardised(images, self.image_spread), standardised(texts, self.text_spread)


def squared_means(image: Float[Tensor, "N d"], text: Float[Tensor, "N e"]) -> Float[Tensor, ""]:
    """Return |mean image|² + |mean text|² of standardised pairs: how far their means are from those of real pairs."""
    return image.mean(0).square().sum() + text.mean(0).square().sum()


def standardised(rows: Float[Tensor, "B d"], spread: Float[Tensor, "2 d"]) -> Float[Tensor, "B d"]:
    """Return rows minus the mean, divided by the deviation; dimensions that never vary become zero."""
    mean, deviation = spread.to(rows)
    return (rows - mean) * torch.where(deviation > 0, 1 / deviation, torch.zeros_like(deviation))
