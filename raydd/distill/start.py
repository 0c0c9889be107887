"""The real pairs that a distillation starts from."""

from jaxtyping import Int
from torch import Generator, Tensor

from raydd.data.features import SplitFeatures
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet


def start_set(
    features: SplitFeatures,
    captions: Int[Tensor, "N"],
    *,
    seed: int,
    rate: float,
    similarity: str,
    rank: int,
    alpha: float,
    loss: str,
) -> SyntheticSet:
    """Real pairs as a synthetic set: their features, the identity as similarity, both rates at `rate`."""
    images = features.image_of_text[captions]
    generator = Generator().manual_seed(seed)
    return SyntheticSet(
        features.images.gather(images, 0),
        features.texts[captions].float(),
        Similarity.start(similarity, len(captions), rank=rank, alpha=alpha, generator=generator),  # type: ignore[arg-type]
        rate,
        rate,
        loss,
        images,
        captions,
    )
