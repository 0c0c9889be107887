"""Small pairs with something to learn: images and texts are two noisy views of one hidden vector."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raydd.config import ExpertsConfig
from raydd.distill.experts import Experts
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet
from raydd.store import Record, Store

IMAGE_WIDTH, TEXT_WIDTH, WIDTH = 12, 9, 16
RECIPE = ExpertsConfig(count=2, epochs=4, lr=0.1, batch_size=16)


@dataclass(frozen=True)
class Rows:
    """Image features in memory, read like the cache's."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def gather(self, rows: Tensor, views: Tensor | int) -> Tensor:
        return self.values[rows, views].float()


@dataclass(frozen=True)
class Split:
    images: Rows
    texts: Tensor
    image_of_text: Tensor


def make_split(images: int, seed: int, views: int = 2, captions: int = 2) -> Split:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.Generator().manual_seed(99)
    to_image, to_text = torch.randn(6, IMAGE_WIDTH, generator=maps), torch.randn(6, TEXT_WIDTH, generator=maps)
    hidden = torch.randn(images, 6, generator=generator)
    image = hidden @ to_image + 0.1 * torch.randn(views, images, IMAGE_WIDTH, generator=generator)
    owner = torch.arange(images).repeat_interleave(captions)
    text = hidden[owner] @ to_text + 0.1 * torch.randn(len(owner), TEXT_WIDTH, generator=generator)
    return Split(Rows(image.transpose(0, 1).half()), text.half(), owner)


def open_experts(folder: Path, count: int = 2, first_seed: int = 0) -> Experts:
    record = Record.of(Store(folder), "experts", {"lr": 0.1}, {}, version=1)
    return Experts(record, IMAGE_WIDTH, TEXT_WIDTH, WIDTH, first_seed, count)


def pairs(count: int, seed: int = 0) -> SyntheticSet:
    """Pairs to train students on, 9 and 7 numbers wide."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 5, generator=generator)
    image = hidden @ torch.randn(5, 9, generator=generator)
    text = hidden @ torch.randn(5, 7, generator=generator)
    numbers = torch.arange(count)
    return SyntheticSet(image, text, Similarity("identity", count, {}), 0.1, 0.1, "infonce", numbers, numbers)
