"""A student of a set: two heads trained on its pairs in seconds, for who wants to use what the pairs are worth."""

from raydd.config import StudentsConfig
from raydd.distill.experts import Heads
from raydd.distill.heads import Head
from raydd.evaluate.students import synthetic_pairs, train_students
from raydd.sets.read import OpenedSet


def train_student(opened: OpenedSet, recipe: StudentsConfig, device: str, seed: int = 0) -> Heads:
    """The image head and the text head of one student, trained on a set as its scores were.

    Raises:
        NonFiniteError: the training diverged.
    """
    image, text = train_students(
        synthetic_pairs(opened.synthetic),
        recipe,
        width=opened.provenance.width,
        temperature=opened.provenance.temperature,
        seeds=[seed],
        device=device,
    )
    return Head(*(part[0].cpu() for part in image)), Head(*(part[0].cpu() for part in text))
