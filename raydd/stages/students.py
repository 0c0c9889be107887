"""Students of a set of pairs, trained by the configured recipe, scored on a split, and their learning rates fitted."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, overload

from raydd.config import StudentsConfig
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import Scores, ScoresOnTest, ScoresOnVal, by_published_choice, scores_on
from raydd.protocols import Choosing, HeldOutSplit, Workbench

CHECKS = 5  # published: epochs 0, 20, 40, 60, 80 and 100 are tested
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

    Under `evaluate.choice` best-on-split each student is scored at six checks and its best r_mean counts, as published.

    Raises:
        NonFiniteError: a student diverged.
    """
    config, scored = work.config, []
    checked, every = config.evaluate.choice == "best-on-split", max(1, config.students.epochs // CHECKS)
    checks: list[Scores] = []

    def check(epoch: int, students: Any) -> None:
        if checked and epoch % every == 0:
            checks.append(work.score(students, split))

    for students in work.train_students(pairs, seeds, check):
        rounds = checks or [work.score(students, split)]
        scored += [max(own, key=by_published_choice) for own in zip(*(one.seeds for one in rounds), strict=True)]
        checks.clear()  # of these students; the next ones are trained when they are asked for
    return scores_on(split, scored)


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


def last_val_scores(work: Choosing[Any], pairs: SyntheticSet) -> ScoresOnVal:
    """Val scores of one student of a set, after its last epoch whatever `evaluate.choice` says.

    Raises:
        NonFiniteError: the student diverged.
    """
    (student,) = work.train_students(pairs, [0])
    return work.val_scores(student)


def best_multiple(score: Callable[[float], ScoresOnVal]) -> float:
    """The power of two by which learning rates are multiplied: doubled from 1 while the score rises, or else halved.

    Args:
        score: val scores of a student at so many times its learning rates; one that diverges is worse than any other.

    Raises:
        NonFiniteError: students diverge at 1/32 of the learning rates too.
    """

    @functools.cache
    def scored(multiple: float) -> float:
        try:
            return score(multiple).for_choice
        except NonFiniteError:
            if multiple == LEAST:
                raise
            return float("-inf")

    best = 1.0
    while best < MOST and scored(2 * best) > scored(best):
        best *= 2
    if best == 1.0:
        while best > LEAST and (scored(best / 2) > scored(best) or scored(best) == float("-inf")):
            best /= 2
    return best


def fit_rates(work: Choosing[Any], pairs: SyntheticSet) -> tuple[SyntheticSet, float]:
    """The set with the LR multiplier that is best for one student on val, and the multiplier.

    Learning rates are learned for students of a few steps. A student of a hundred epochs does better with several times
    those where the similarity is the identity, and with a part of them where pixels miss the features.

    Raises:
        NonFiniteError: the student diverges at every learning rate.
    """

    def at(multiple: float) -> SyntheticSet:
        return replace(pairs, rate_image=multiple * pairs.rate_image, rate_text=multiple * pairs.rate_text)

    best = best_multiple(lambda multiple: last_val_scores(work, at(multiple)))
    return at(best), best
