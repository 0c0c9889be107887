"""The real pairs that a distillation starts from."""

from typing import Protocol

from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

from raydd.data.feature_rows import CaptionRows
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet


class Captions(Protocol):
    """Caption features of a split and whose captions they are."""

    @property
    def texts(self) -> CaptionRows:
        """Caption features."""
        ...

    @property
    def image_of_text(self) -> Int[Tensor, "C"]:
        """Index of each caption's image."""
        ...


def start_of(
    image_features: Float[Tensor, "N d"],
    split: Captions,
    captions: Int[Tensor, "N"],
    *,
    seed: int,
    rates: tuple[float, float],
    similarity: str,
    rank: int = 1,
    alpha: float = 1.0,
    loss: str,
    pixels: UInt8[Tensor, "N 3 S S"] | None = None,
) -> SyntheticSet:
    """Real pairs as a synthetic set: their features, the identity as similarity, a learning rate for each side."""
    generator = Generator().manual_seed(seed)
    return SyntheticSet(
        image_features,
        split.texts[captions].float(),
        Similarity.start(similarity, len(captions), rank=rank, alpha=alpha, generator=generator),  # type: ignore[arg-type]
        *rates,
        loss,
        split.image_of_text[captions],
        captions,
        pixels,
    )
