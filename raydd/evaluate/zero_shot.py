"""Zero-shot classification: an image gets the class of the nearest prompts, by heads that never saw the classes.

Letters: n images, K classes, T prompt templates, D width of the shared space.
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.heads import to_sphere
from raydd.errors import NonFiniteError

# Worded like captions, since the heads are trained on captions: CLIP's "itap of a {}" means nothing to them.
TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a photograph of the {}.",
    "a close-up of a {}.",
    "there is a {} in the picture.",
    "a {}.",
)
KS = (1, 5)
METRICS = tuple(f"ACC@{k}" for k in KS)


def prompts(names: Sequence[str]) -> list[str]:
    """Fill every template with every class name; the prompts of a class are adjacent."""
    return [template.format(name) for name in names for template in TEMPLATES]


def class_directions(prompt_embeddings: Float[Tensor, "KT D"]) -> Float[Tensor, "K D"]:
    """Return the mean direction of each class's embedded prompts, in the order of `prompts`."""
    return to_sphere(prompt_embeddings.unflatten(0, (-1, len(TEMPLATES))).mean(1))


def accuracies(
    images: Float[Tensor, "n D"], classes: Float[Tensor, "K D"], labels: Int[Tensor, "n"]
) -> dict[str, float]:
    """Return ACC@1 and ACC@5: percent of images whose class is among the 1 or 5 nearest. A tie counts as wrong.

    Raises:
        NonFiniteError: an embedding is NaN or infinite.
    """
    similarity = images @ classes.T
    if not bool(similarity.isfinite().all()):
        raise NonFiniteError(
            "The student's embeddings are not finite. Lower the learning rates that it was trained with."
        )
    own_similarity = similarity.gather(1, labels[:, None])
    nearer_classes = (similarity >= own_similarity).sum(1) - 1
    return {f"ACC@{k}": 100 * float((nearer_classes < k).double().mean()) for k in KS}
