"""A student in closed form: ridge regression of both modalities onto the pairs of a set, scored by retrieval.

It takes milliseconds where students take seconds, and ranks sets nearly as they do, so the rungs of a sweep use it.
It knows neither heads nor learning rates: its recalls are no student's, only their order means something, and a set on
which heads cannot be trained (start rates that are far too small made some) may have a high score. The objective
`ridge` learns sets for the same student, with a strength of its own for each side.

Letters: N pairs, d and e encoder widths.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.data.features import SplitFeatures
from raydd.distill.heads import to_sphere
from raydd.distill.objectives.real_pairs import standardised
from raydd.distill.objectives.ridge import regressed
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.retrieval import retrieval_scores

STRENGTH = 1.0  # of the penalty, in mean squared lengths of a row; 0.1 and 10 ranked the sets of the demo no better


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

    def onto_pairs(real: Tensor, learned: Tensor, spread: Tensor) -> Float[Tensor, "n N"]:
        rows, onto = (standardised(each.double().cpu(), spread) for each in (real, learned))
        return regressed(rows, onto, STRENGTH)

    of_images = onto_pairs(images, pairs.image_features, image_spread) @ similarity
    of_texts = onto_pairs(split.texts.whole(), pairs.text_features, text_spread)
    return retrieval_scores(to_sphere(of_images), to_sphere(of_texts), split.image_of_text)
