"""Inputs of the benchmark: the packaged encoders, the bundled pictures, and random features and experts.

Times do not depend on the values of features or heads, so work that reads cached features is timed with random ones.
The sizes are those of Flickr8k (3,400 images with five captions each), which two cores can also process in reality.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Generator, Tensor, nn

from raydd.config import DataConfig, EncodersConfig
from raydd.data import CaptionRows, FeatureRows, SplitFeatures, load_image_encoder, load_text_encoder
from raydd.data.encoders.registry import IMAGE_ENCODERS
from raydd.data.encoders.towers import ImageEncoder, NormalisedTower, TextEncoder
from raydd.data.images import ImageSource, open_image
from raydd.data.readers import find_reader
from raydd.distill.experts import Experts
from raydd.distill.heads import Head, initial_heads
from raydd.store import Record, Store

IMAGES, CAPTIONS_EACH = 3_400, 5
SCORED_IMAGES = 1_000
TEMPERATURE = 0.07
_ENCODERS = EncodersConfig()  # efficientnet-lite0 and MiniLM


@dataclass(frozen=True)
class Encoders:
    """Both encoders as raydd runs them, and the plain image encoder that the published loop runs."""

    image: ImageEncoder
    text: TextEncoder
    plain: nn.Module


@cache
def encoders(image_size: int) -> Encoders:
    """Return the packaged encoders for an image size."""
    config = EncodersConfig(image_size=image_size)
    tower = IMAGE_ENCODERS[_ENCODERS.image].load("", config)
    plain = NormalisedTower(tower.module, tower.mean, tower.std).eval().requires_grad_(False)
    return Encoders(load_image_encoder(config), load_text_encoder(config), plain)


@cache
def sources(count: int) -> tuple[tuple[ImageSource, ...], tuple[str, ...]]:
    """Return `count` bundled pictures, not opened, with their captions; pictures repeat if there are fewer."""
    entries = find_reader("stamps")(DataConfig()).entries
    chosen = [entries[number % len(entries)] for number in range(count)]
    return tuple(entry.image for entry in chosen), tuple(entry.captions[0] for entry in chosen)


@cache
def pictures(count: int) -> tuple[Sequence[Image.Image], Sequence[str]]:
    """Return `count` bundled pictures in memory, with their captions."""
    images, captions = sources(count)
    return [open_image(image) for image in images], captions


def split_of(images: int, image_width: int, text_width: int, *, captions: int = CAPTIONS_EACH) -> SplitFeatures:
    """Return a split of random features, with one view of each image."""
    generator = Generator().manual_seed(0)
    rows = FeatureRows((torch.randn(images, 1, image_width, generator=generator).half(),), per_shard=images)
    texts = torch.randn(images * captions, text_width, generator=generator).half()
    return SplitFeatures(
        rows, CaptionRows((texts,), per_shard=len(texts)), torch.arange(images).repeat_interleave(captions)
    )


def experts_in(folder: Path, image_width: int, text_width: int, width: int, *, count: int, epochs: int) -> Experts:
    """Make experts in a separate store, with snapshots near their starts as for trained experts."""
    record = Record.of(Store(folder), "experts", {}, {}, version=1)
    experts = Experts(record, image_width, text_width, width, first_seed=0, count=count)
    for expert in range(count):
        for epoch in range(1, epochs + 1):
            if not experts.has(expert, epoch):
                record.write_tensors(
                    experts.name(expert, epoch),
                    experts.rounded(expert, experts.initial(expert), _heads_near_start(experts, epoch))[0],
                )
    return experts


def _heads_near_start(experts: Experts, epoch: int) -> tuple[Head, Head]:
    offsets = initial_heads(experts.image_width, experts.text_width, experts.width, 1_000 + epoch)
    starts = experts.initial(0)
    image, text = (
        Head(*(part + 0.05 * offset for part, offset in zip(start, head, strict=True)))
        for start, head in zip(starts, offsets, strict=True)
    )
    return image, text


def flat(heads: tuple[Head, Head]) -> tuple[Tensor, Tensor]:
    """Return both heads as flat vectors, as the published loop stores them."""
    return heads[0].flat(), heads[1].flat()
