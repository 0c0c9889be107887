"""Students of a set of pairs, trained by the configured recipe, scored on a split, and their learning rates fitted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

from jaxtyping import Int
from torch import Tensor

from raydd.config import Config, StudentsConfig
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import ScoresOnTest, ScoresOnVal, by_published_choice, scores_of_hits, scores_on
from raydd.protocols import Choosing, HeldOutSplit, Workbench

LEAST, MOST = 1 / 32, 32.0
# Where to begin. Of 40 sets with a learned similarity 34 ended at half of the learned rates or less. With the identity
# it is the rates themselves that are alike: those of 35 sets ended between 3.7 and 10.7, at multiples from 4 to 32.
_OF_LEARNED, _RATE_OF_IDENTITY = 0.5, 7.0
_CHECKS = 6  # what records of best-on-split are named without; never changes
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
    """Train one student a seed, of which there may be none, on the pairs and score it on val or test.

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
    checked = checked_epochs(config) if config.evaluate.choice == "best-on-split" else []
    checks: list[list[Tensor]] = []

    def check(epoch: int, students: Callable[[], Any]) -> None:
        if epoch in checked:
            checks.append(work.hits(students(), split))

    for students in work.train_students(pairs, seeds, check) if seeds else ():
        rounds = checks or [work.hits(students, split)]
        found += [
            max(own, key=lambda hits: by_published_choice(scores_of_hits(hits))) for own in zip(*rounds, strict=True)
        ]
        checks.clear()  # of these students; the next ones are trained when they are asked for
    return found


def checked_epochs(config: Config) -> list[int]:
    """The epochs after which best-on-split scores a student: `evaluate.checks`, evenly from the first to the last."""
    intervals = config.evaluate.checks - 1
    return sorted({round(number * config.students.epochs / intervals) for number in range(intervals + 1)})


def choice_content(config: Config) -> dict[str, Any]:
    """The settings that decide which epoch of a student counts: records are named by these alone."""
    if config.evaluate.choice == "last":
        return {}
    usual = config.evaluate.checks == _CHECKS and config.students.epochs % (_CHECKS - 1) == 0
    return {"choice": config.evaluate.choice, **({} if usual else {"checks": checked_epochs(config)})}


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


@dataclass(frozen=True)
class Fitted:
    """A set whose learning rates are fitted."""

    pairs: SyntheticSet
    """The set with both learning rates multiplied."""
    multiple: float
    val: ScoresOnVal
    """Of the student of seed 0 at these learning rates."""


def fit_rates(work: Choosing[Any], pairs: SyntheticSet, near: float = 0.0) -> Fitted:
    """The set with the LR multiplier that is best for one student on val, after its last epoch.

    Learning rates are learned for students of a few steps. A student of a hundred epochs does better with several times
    those where the similarity is the identity, and with a part of them where the similarity is learned.

    Args:
        work: trains and scores students.
        pairs: the set.
        near: the multiple to begin with, a power of two; 0 is `usual_multiple`, or 1 where students train an encoder.

    Raises:
        NonFiniteError: the student diverges at every learning rate.
    """

    def on_val(multiples: Sequence[float]) -> list[ScoresOnVal | None]:
        return [_val_scores(work, student) for student in work.train_at_multiples(pairs, multiples)]

    # Few fits of encoders are known.
    usual = usual_multiple(pairs, work.config.students) if work.batches_students else 1.0
    best, scores = best_multiple(on_val, near=near or usual, neighbours_at_once=work.batches_students)
    return Fitted(pairs.at_multiple(best), best, scores)


def usual_multiple(pairs: SyntheticSet, recipe: StudentsConfig) -> float:
    """The power of two near which fits of such a set have ended."""
    if pairs.similarity.kind != "identity":
        return _OF_LEARNED
    momentum = 1.0 if recipe.rate == "effective" else 1 / (1 - recipe.momentum)  # by which it makes a rate larger
    rate = math.sqrt(pairs.rate_image * pairs.rate_text) * momentum
    return min(max(2.0 ** round(math.log2(_RATE_OF_IDENTITY / rate)), 2 * LEAST), MOST / 2)  # its neighbours are tried


def _val_scores(work: Choosing[Any], student: Any) -> ScoresOnVal | None:
    """Val scores of one student; None where it diverged, which its embeddings may be the first to show."""
    try:
        return None if student is None else work.val_scores(student)
    except NonFiniteError:
        return None


def best_multiple(
    score: Callable[[Sequence[float]], Sequence[ScoresOnVal | None]],
    *,
    near: float = 1.0,
    neighbours_at_once: bool = False,
) -> tuple[float, ScoresOnVal]:
    """The power of two by which learning rates are multiplied: doubled while the score rises, or else halved.

    Args:
        score: val scores of a student at each of some multiples of its learning rates, None for one that diverges.
        near: the multiple to begin with.
        neighbours_at_once: ask for that and both its neighbours at once; they cost little more than one of them alone.

    Returns:
        The multiple, and the scores there.

    Raises:
        NonFiniteError: students diverge at 1/32 of the learning rates too.
    """
    known: dict[float, ScoresOnVal | None] = {}

    def scored(*multiples: float) -> float:
        asked = [multiple for multiple in multiples if multiple not in known]
        if asked:
            known.update(zip(asked, score(asked), strict=True))
        first = known[multiples[0]]
        return -math.inf if first is None else first.for_choice

    best = near
    if neighbours_at_once:
        scored(best, best / 2, 2 * best)
    while best < MOST and scored(2 * best) > scored(best):
        best *= 2
    if best == near:
        while best > LEAST and (scored(best / 2) > scored(best) or scored(best) == -math.inf):
            best /= 2
    found = known[best]
    if found is None:
        raise NonFiniteError(
            f"Students diverge at 1/{round(1 / LEAST)} of the learning rates too. Lower distill.start_rate or "
            "distill.rate_lr."
        )
    return best, found
