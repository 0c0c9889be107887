"""Students of a set of pairs, trained by the configured recipe, scored on a split, and their learning rates fitted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal, overload

from jaxtyping import Int
from torch import Tensor

from raydd.config import StudentsConfig
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import ScoresOnTest, ScoresOnVal, by_published_choice, scores_of_hits, scores_on
from raydd.protocols import Choosing, HeldOutSplit, Workbench

LEAST, MOST = 1 / 32, 32.0
_NEUTRAL = {
    "epochs": 100,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "dropout": 0.1,
    "rate": "effective",
}


@overload
def score_students(
    work: Workbench[Any], pairs: SyntheticSet, *, split: Literal["val"], seeds: Sequence[int]
) -> ScoresOnVal: ...
@overload
def score_students(
    work: Workbench[Any], pairs: SyntheticSet, *, split: Literal["test"], seeds: Sequence[int]
) -> ScoresOnTest: ...
def score_students(
    work: Workbench[Any], pairs: SyntheticSet, *, split: HeldOutSplit, seeds: Sequence[int]
) -> ScoresOnVal | ScoresOnTest:
    """Train one student a seed on the pairs and score it on val or test.

    Under `evaluate.choice` best-on-split each student's best r_mean of some checks counts, as published.

    Raises:
        NonFiniteError: a student diverged.
    """
    return scores_on(split, map(scores_of_hits, student_hits(work, pairs, split=split, seeds=seeds)))


def student_hits(
    work: Workbench[Any], pairs: SyntheticSet, *, split: HeldOutSplit, seeds: Sequence[int]
) -> list[Int[Tensor, "I 7"]]:
    """What the images and captions of a split find by each student, see `raydd.evaluate.retrieval.HITS`.

    Under `evaluate.choice` best-on-split that of the check with the best r_mean.

    Raises:
        NonFiniteError: a student diverged.
    """
    config, found = work.config, []
    checked, every = (
        config.evaluate.choice == "best-on-split",
        max(1, config.students.epochs // (config.evaluate.checks - 1)),
    )
    checks: list[list[Tensor]] = []

    def check(epoch: int, students: Callable[[], Any]) -> None:
        if checked and epoch % every == 0:
            checks.append(work.hits(students(), split))

    for students in work.train_students(pairs, seeds, check):
        rounds = checks or [work.hits(students, split)]
        found += [
            max(own, key=lambda hits: by_published_choice(scores_of_hits(hits))) for own in zip(*rounds, strict=True)
        ]
        checks.clear()  # of these students; the next ones are trained when they are asked for
    return found


def recipe_content(recipe: StudentsConfig, pairs: int) -> dict[str, Any]:
    """The settings of a recipe that decide students of so many pairs: records are named by these alone.

    A setting at its neutral value is left out, so that one which a later version adds renames no record. These values
    never change, whatever the defaults of `raydd.config` become.
    """
    content = asdict(recipe) | {"batch_size": min(recipe.batch_size, pairs)}  # a minibatch has all pairs at most
    if recipe.momentum == 0:
        del content["rate"]  # both take the learned learning rate as it is
    neutral = {**_NEUTRAL, "batch_size": pairs}
    return {name: value for name, value in content.items() if name not in neutral or neutral[name] != value}


def fit_rates(work: Choosing[Any], pairs: SyntheticSet) -> tuple[SyntheticSet, float]:
    """The set with the LR multiplier that is best for one student on val, after its last epoch, and the multiplier.

    Learning rates are learned for students of a few steps. A student of a hundred epochs does better with several times
    those where the similarity is the identity, and with a part of them where pixels miss the features.

    Raises:
        NonFiniteError: the student diverges at every learning rate.
    """

    def on_val(multiples: Sequence[float]) -> list[ScoresOnVal | None]:
        return [_val_scores(work, student) for student in work.train_at_multiples(pairs, multiples)]

    best = best_multiple(on_val, side_by_side=work.side_by_side)
    return pairs.at_multiple(best), best


def _val_scores(work: Choosing[Any], student: Any) -> ScoresOnVal | None:
    """Val scores of one student; None where it diverged, which its embeddings may be the first to show."""
    try:
        return None if student is None else work.val_scores(student)
    except NonFiniteError:
        return None


def best_multiple(
    score: Callable[[Sequence[float]], Sequence[ScoresOnVal | None]], *, side_by_side: bool = False
) -> float:
    """The power of two by which learning rates are multiplied: doubled from 1 while the score rises, or else halved.

    Args:
        score: val scores of a student at each of some multiples of its learning rates, None for one that diverges.
        side_by_side: ask for 1 and both its neighbours at once; they cost little more than one of them alone.

    Raises:
        NonFiniteError: students diverge at 1/32 of the learning rates too.
    """
    known: dict[float, float] = {}

    def scored(*multiples: float) -> float:
        asked = [multiple for multiple in multiples if multiple not in known]
        if asked:
            found = [-math.inf if one is None else one.for_choice for one in score(asked)]
            known.update(zip(asked, found, strict=True))
        return known[multiples[0]]

    best = 1.0
    if side_by_side:
        scored(best, best / 2, 2 * best)
    while best < MOST and scored(2 * best) > scored(best):
        best *= 2
    if best == 1.0:
        while best > LEAST and (scored(best / 2) > scored(best) or scored(best) == -math.inf):
            best /= 2
    if scored(best) == -math.inf:
        raise NonFiniteError(
            f"Students diverge at 1/{round(1 / LEAST)} of the learning rates too. Lower distill.start_rate or "
            "distill.rate_lr."
        )
    return best
