"""The real pairs that a distillation starts from."""

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from raydd.data.features import SplitFeatures
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError


def random_captions(image_of_text: Int[Tensor, "C"], pairs: int, seed: int) -> Int[Tensor, "N"]:
    """Captions of `pairs` different images, drawn by seed.

    Raises:
        ConfigError: there are fewer training images than that.
    """
    generator = Generator().manual_seed(seed)
    shuffled = torch.randperm(len(image_of_text), generator=generator)
    images = int(image_of_text.unique().numel())
    if pairs > images:
        raise ConfigError(f"distill.pairs is {pairs}, but train has {images} images. Lower distill.pairs.")
    # The first caption of each image in the shuffled order, then the first `pairs` of these images.
    first = torch.full((int(image_of_text.max()) + 1,), len(shuffled)).scatter_reduce_(
        0, image_of_text[shuffled], torch.arange(len(shuffled)), "amin"
    )
    return shuffled[first[first < len(shuffled)].sort().values[:pairs]]


def start_set(
    features: SplitFeatures,
    *,
    pairs: int,
    seed: int,
    rate: float,
    similarity: str,
    rank: int,
    alpha: float,
    loss: str,
) -> SyntheticSet:
    """Random real pairs as a synthetic set: their features, the identity as similarity, both rates at `rate`."""
    captions = random_captions(features.image_of_text, pairs, seed)
    images = features.image_of_text[captions]
    generator = Generator().manual_seed(seed)
    return SyntheticSet(
        features.images.gather(images, 0),
        features.texts[captions].float(),
        Similarity.start(similarity, pairs, rank=rank, alpha=alpha, generator=generator),  # type: ignore[arg-type]
        rate,
        rate,
        loss,
        images,
        captions,
    )
