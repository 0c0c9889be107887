"""A student in closed form: ridge regression of both modalities onto the pairs of a set, scored by retrieval.

It takes milliseconds where trained students take seconds, and ranks sets nearly as they do, so the rungs of a sweep use
it. It has neither heads nor learning rates, so only the order of its recalls is meaningful: they are not the recalls of
a trained student. A set on which heads cannot be trained may still score high; start learning rates that are far too
small made some such sets. The objective `ridge` learns sets for the same closed-form student, with a separate strength
of the penalty for each side.

Letters: N pairs, d and e encoder widths.
"""

from jaxtyping import Float
from torch import Tensor

from raydd.data.features import SplitFeatures
from raydd.distill.heads import to_sphere
from raydd.distill.objectives.real_pairs import standardised
from raydd.distill.objectives.ridge import regressed
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.retrieval import retrieval_scores
from raydd.evaluate.students import rows_of

STRENGTH = 1.0  # of the penalty, in units of a row's mean squared length; 0.1 and 10 ranked the demo's sets no better


def ridge_scores(
    pairs: SyntheticSet,
    split: SplitFeatures,
    image_spread: Float[Tensor, "2 d"],
    text_spread: Float[Tensor, "2 e"],
    *,
    device: str = "cpu",
) -> dict[str, float]:
    """Return the retrieval scores, in percent, of a set's closed-form student.

    The regression targets are the rows of the similarity matrix S for the set's images, and the rows of the identity
    for its texts. A real image x and a real text y are ranked by the cosine of k(x, X) (K_X + l I)^-1 S and
    k(y, Y) (K_Y + l I)^-1, on standardised features.

    Args:
        pairs: the set.
        split: features to score on.
        image_spread: mean and standard deviation of each real image feature, for standardising the rows.
        text_spread: the same for the text features.
        device: where to compute, in double precision; the split's features may be there already.

    Raises:
        NonFiniteError: the set has features that are not finite.
    """
    similarity = pairs.similarity.matrix().to(device).double()
    images, texts, image_of_text = rows_of(split, device)

    def onto_pairs(real: Tensor, learned: Tensor, spread: Tensor) -> Float[Tensor, "n N"]:
        real_rows, pair_rows = (standardised(features.to(device).double(), spread) for features in (real, learned))
        return regressed(real_rows, pair_rows, STRENGTH)

    image_embeddings = onto_pairs(images, pairs.image_features, image_spread) @ similarity
    text_embeddings = onto_pairs(texts, pairs.text_features, text_spread)
    return retrieval_scores(to_sphere(image_embeddings), to_sphere(text_embeddings), image_of_text)
