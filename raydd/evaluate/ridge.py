"""A student in closed form: ridge regression of both modalities onto the pairs of a set, scored by retrieval.

It takes milliseconds where students take seconds, and ranks sets nearly as they do, so the rungs of a sweep use it.
It knows neither heads nor learning rates: its recalls are no student's, only their order means something, and a set on
which heads cannot be trained (start rates that are far too small made some) may have a high score.

Letters: N pairs, d and e encoder widths.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.data.features import SplitFeatures
from raydd.distill.heads import to_sphere
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.retrieval import retrieval_scores

STRENGTH = 1.0  # of the penalty, in mean squared lengths of a row; 0.1 and 10 ranked the sets of the demo no better


def ridge_map(
    rows: Float[Tensor, "N d"], targets: Float[Tensor, "N k"], strength: float = STRENGTH
) -> Float[Tensor, "d k"]:
    """W that minimises ||rows W - targets||^2 + l ||W||^2, with l = strength x the mean squared length of a row.

    Solved with N equations, not d: W = rows^T (rows rows^T + l I)^-1 targets.
    """
    kernel = rows @ rows.T
    penalty = strength * kernel.diagonal().mean()
    return rows.T @ torch.linalg.solve(kernel + penalty * torch.eye(len(rows), dtype=rows.dtype), targets)


def ridge_scores(
    pairs: SyntheticSet,
    split: SplitFeatures,
    image_spread: Float[Tensor, "2 d"],
    text_spread: Float[Tensor, "2 e"],
) -> dict[str, float]:
    """Retrieval scores in percent of the closed-form student of a set.

    An image is mapped onto its row of the similarity matrix S, a text onto its pair; their cosine ranks candidates.
    With standardised features, image and text are compared as k(x, X) (K_X + l I)^-1 S and k(y, Y) (K_Y + l I)^-1.

    Args:
        pairs: the set.
        split: features to score on.
        image_spread: mean and standard deviation of each real image feature, by which rows are standardised.
        text_spread: the same of the text features.

    Raises:
        NonFiniteError: the set has features that are not finite.
    """
    similarity = pairs.similarity.matrix().double().cpu()
    images = split.images.gather(torch.arange(split.images.shape[0]), 0)
    onto = {
        "image": (pairs.image_features, images, image_spread, similarity),
        "text": (pairs.text_features, split.texts.whole(), text_spread, torch.eye(len(pairs), dtype=torch.float64)),
    }
    embedded = {
        side: to_sphere(_standardised(real, spread) @ ridge_map(_standardised(learned, spread), targets))
        for side, (learned, real, spread, targets) in onto.items()
    }
    return retrieval_scores(embedded["image"], embedded["text"], split.image_of_text)


def _standardised(rows: Float[Tensor, "n d"], spread: Float[Tensor, "2 d"]) -> Float[Tensor, "n d"]:
    """Rows with the mean taken away, divided by the deviation; dimensions that never vary become zero."""
    mean, deviation = spread.double()
    return torch.where(deviation > 0, (rows.double().cpu() - mean) / deviation, 0.0)
