"""The gallery of synthetic pairs: each image next to its start image, its captions, its strongest similarities."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from raydd.data import Pairs, open_pixels
from raydd.distill.synthetic import SyntheticSet
from raydd.sets.read import OpenedSet

AMPLIFIED = 6  # factor by which differences are amplified, around middle grey
STRONGEST = 3  # number of off-diagonal similarities that are listed for each pair
_QUALITY = 85  # WebP quality
_QUALITY_OF_NOISE = 40  # WebP quality of a difference image: it looks the same at half the size


@dataclass(frozen=True)
class ShownPair:
    """One synthetic pair as the page shows it; pictures are `data:` URLs."""

    number: int
    start: str
    """The real image that it started from."""
    image: str
    """The synthetic image; empty for a set of features."""
    difference: str
    """Difference between the two images, amplified; empty for a set of features."""
    change: float
    """Mean absolute change of a pixel, on a scale of 0 to 255."""
    start_name: str
    start_caption: str
    nearest: tuple[tuple[str, float], ...]
    """Real captions nearest to the text feature, with their cosines."""
    strongest: tuple[tuple[int, float, str], ...]
    """The other texts with the largest absolute similarity to the image: number, similarity, nearest caption."""


def shown_pairs(opened: OpenedSet, train: Pairs, size: int) -> list[ShownPair]:
    """Return all pairs of a set as the page shows them.

    Args:
        opened: the set.
        train: the training pairs that it started from.
        size: side of the start images in pixels, for a set without pixels.
    """
    synthetic = opened.synthetic
    side = size if synthetic.pixels is None else synthetic.pixels.shape[-1]
    starts = open_pixels([train.images[index] for index in synthetic.start_images.tolist()], side)
    neighbours = strongest_similarities(synthetic.similarity.matrix(), opened.rows)
    return [
        _shown_pair(number, synthetic, starts[number], row, neighbours[number])
        for number, row in enumerate(opened.rows)
    ]


def strongest_similarities(
    similarity: Float[Tensor, "N N"], rows: Sequence[Mapping[str, Any]], count: int = STRONGEST
) -> list[tuple[tuple[int, float, str], ...]]:
    """Return for each image the other texts with the largest absolute similarities, without similarities of 0."""
    off_diagonal = similarity.clone().fill_diagonal_(0.0)
    indices = off_diagonal.abs().topk(min(count, len(off_diagonal) - 1), dim=1).indices
    return [
        tuple(
            (other, float(off_diagonal[number, other]), rows[other]["nearest_captions"][0])
            for other in indices[number].tolist()
            if off_diagonal[number, other] != 0
        )
        for number in range(len(off_diagonal))
    ]


def difference(start: UInt8[Tensor, "3 H W"], image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
    """Return the change from start to image, amplified, around middle grey."""
    return ((image.float() - start.float()) * AMPLIFIED + 128).round().clamp(0, 255).to(torch.uint8)


def data_address(pixels: UInt8[Tensor, "3 H W"], quality: int = _QUALITY) -> str:
    """Return an image as a `data:` URL, in WebP."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, format="WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shown_pair(
    number: int,
    synthetic: SyntheticSet,
    start: UInt8[Tensor, "3 H W"],
    row: Mapping[str, Any],
    neighbours: tuple[tuple[int, float, str], ...],
) -> ShownPair:
    pixels = None if synthetic.pixels is None else synthetic.pixels[number]
    return ShownPair(
        number=number,
        start=data_address(start),
        image="" if pixels is None else data_address(pixels),
        difference="" if pixels is None else data_address(difference(start, pixels), _QUALITY_OF_NOISE),
        change=0.0 if pixels is None else float((pixels.float() - start.float()).abs().mean()),
        start_name=row["start_image"],
        start_caption=row["start_caption"],
        nearest=tuple(zip(row["nearest_captions"], row["cosines"], strict=True)),
        strongest=neighbours,
    )
