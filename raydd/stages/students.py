"""Trains students on a set of pairs by the configured recipe, scores them on a split, and fits their learning rates."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

from jaxtyping import Int
from torch import Tensor

from raydd.config import Config, StudentsConfig
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import ScoresOnTest, ScoresOnVal, by_published_choice, scores_of_hits, scores_on
from raydd.evaluate.students import FIRST_FACTORS
from raydd.protocols import Choosing, HeldOutSplit, Workbench
from raydd.sets.provenance import Provenance

_MULTIPLES = [2.0**power for power in range(-5, 6)]
MIN_MULTIPLE, MAX_MULTIPLE = _MULTIPLES[0], _MULTIPLES[-1]
# A student has learned nothing if its r_mean is at most chance times the first number, or at most the second part of
# the way from chance to 100, whichever is lower: on a val split of ten images, twice chance is more than 100.
_TIMES_CHANCE, _PART_ABOVE_CHANCE = 2, 0.25
_SEEDS_AT_EDGE = (1, 2, 3, 4)  # students that confirm a fit whose double makes the first student fail
# Where fits of learning rates begin. With a learned similarity, 34 of 40 sets ended at half of the learned learning
# rates or less. With the identity, the fitted learning rates themselves are alike: those of 35 sets ended between 3.7
# and 10.7, at multiples from 4 to 32.
_MULTIPLE_OF_LEARNED, _RATE_OF_IDENTITY = 0.5, 7.0
_CHECKS = 6  # number of checks that record names leave out; must never change
_NEUTRAL_SETTINGS = {
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
    """Train one student per seed on the pairs, and score each on val or test; `seeds` may be empty.

    Under `evaluate.choice` best-on-split, each student counts with the best r_mean of its checks, as published.

    Raises:
        NonFiniteError: a student diverged.
    """
    return scores_on(split, map(scores_of_hits, student_hits(work, pairs, split=split, seeds=seeds)))


def student_hits(
    work: Workbench[Any], pairs: SyntheticSet, *, split: HeldOutSplit, seeds: Sequence[int]
) -> list[Int[Tensor, "I 7"]]:
    """Train one student per seed; return what each finds on a split, see `raydd.evaluate.retrieval.HITS`.

    Under `evaluate.choice` best-on-split, these are the hits of the check with the best r_mean.

    Raises:
        NonFiniteError: a student diverged.
    """
    config, hits_of_students = work.config, []
    epochs_to_check = checked_epochs(config) if config.evaluate.choice == "best-on-split" else []
    hits_of_checks: list[list[Tensor]] = []

    def check(epoch: int, students: Callable[[], Any]) -> None:
        if epoch in epochs_to_check:
            hits_of_checks.append(work.hits(students(), split))

    for students in work.train_students(pairs, seeds, check) if seeds else ():
        hits_of_epochs = hits_of_checks or [work.hits(students, split)]
        hits_of_students += [
            max(hits_of_student, key=lambda hits: by_published_choice(scores_of_hits(hits)))
            for hits_of_student in zip(*hits_of_epochs, strict=True)
        ]
        hits_of_checks.clear()  # before the next students, which train in the next iteration
    return hits_of_students


def checked_epochs(config: Config) -> list[int]:
    """Return the `evaluate.checks` epochs after which best-on-split scores a student, evenly from first to last."""
    intervals = config.evaluate.checks - 1
    return sorted({round(number * config.students.epochs / intervals) for number in range(intervals + 1)})


def choice_content(config: Config) -> dict[str, Any]:
    """Return the settings that decide which epoch of a student counts; record names depend on no others."""
    if config.evaluate.choice == "last":
        return {}
    has_usual_checks = config.evaluate.checks == _CHECKS and config.students.epochs % (_CHECKS - 1) == 0
    return {"choice": config.evaluate.choice, **({} if has_usual_checks else {"checks": checked_epochs(config)})}


def recipe_content(recipe: StudentsConfig, pairs: int) -> dict[str, Any]:
    """Return the settings of a recipe that decide students of `pairs` pairs; record names depend on no others.

    A setting at its neutral value is left out, so that a setting added by a later version renames no record. Neutral
    values never change, even if the defaults of `raydd.config` do.
    """
    content = asdict(recipe) | {"batch_size": min(recipe.batch_size, pairs)}  # a minibatch has at most all pairs
    if recipe.momentum == 0:
        del content["rate"]  # without momentum, both values of `rate` are the same
    neutral = {**_NEUTRAL_SETTINGS, "batch_size": pairs}
    return {name: value for name, value in content.items() if name not in neutral or neutral[name] != value}


def own_students(provenance: Provenance, pairs: int) -> dict[str, Any]:
    """Return the settings that the record of a set's scores has if its students have the recipe of the set's own run.

    Args:
        provenance: the provenance of the set.
        pairs: number of synthetic pairs.
    """
    return {"students": recipe_content(provenance.students, pairs), "temperature": provenance.temperature}


@dataclass(frozen=True)
class Fitted:
    """A set with fitted learning rates."""

    pairs: SyntheticSet
    """The set, with both learning rates multiplied."""
    multiple: float
    val: ScoresOnVal
    """Val scores of the student of seed 0 at the fitted learning rates."""


def fit_rates(work: Choosing[Any], pairs: SyntheticSet, near: float = 0.0) -> Fitted:
    """Fit the LR multiplier of a set: the best one on val for one student, after its last epoch.

    Learning rates are learned for students of a few steps. A student of a hundred epochs does better with several times
    these learning rates if the similarity is the identity, and with a fraction of them if the similarity is learned.

    Args:
        work: trains and scores students.
        pairs: the set.
        near: the multiple to begin with, a power of two; 0 is `usual_multiple`, or 1 if students train an encoder.

    Raises:
        NonFiniteError: the student diverges at every learning rate.
    """

    def val_scores_at(multiples: Sequence[float]) -> list[ScoresOnVal | None]:
        return [_val_scores(work, student) for student in work.train_at_multiples(pairs, multiples)]

    def others_train_at(multiple: float, first: ScoresOnVal) -> bool:
        try:
            (students,) = work.train_students(pairs.at_multiple(multiple), _SEEDS_AT_EDGE)
            scores = work.val_scores(students)
        except NonFiniteError:
            return False
        return not any(_failed(ScoresOnVal((student,)), first.for_choice) for student in scores.seeds)

    # There are too few fits with encoders to know a usual multiple, and five students with encoders cost too much.
    multiple, scores = best_multiple(
        val_scores_at,
        others_train_at if work.batches_students else lambda multiple, first: True,
        near=near or (usual_multiple(pairs, work.config.students) if work.batches_students else 1.0),
        chance=work.val_chance,
        neighbours_at_once=work.batches_students,
    )
    return Fitted(pairs.at_multiple(multiple), multiple, scores)


def usual_multiple(pairs: SyntheticSet, recipe: StudentsConfig) -> float:
    """Return the power of two near which fits of similar sets have ended."""
    if pairs.similarity.kind != "identity":
        return _MULTIPLE_OF_LEARNED
    momentum = 1.0 if recipe.rate == "effective" else 1 / (1 - recipe.momentum)  # its effect on a rate
    rate = math.sqrt(pairs.rate_image * pairs.rate_text) * momentum
    multiple = 2.0 ** round(math.log2(_RATE_OF_IDENTITY / rate))
    return min(max(multiple, 2 * MIN_MULTIPLE), MAX_MULTIPLE / 2)  # a fit tries its neighbours too


def _val_scores(work: Choosing[Any], student: Any) -> ScoresOnVal | None:
    """Return val scores of one student; None if it diverged, even if only its embeddings show that."""
    try:
        return None if student is None else work.val_scores(student)
    except NonFiniteError:
        return None


def _failed(scores: ScoresOnVal | None, good: float) -> bool:
    """Whether a student diverged, or ended far below a good r_mean: at rates that are too high many end near chance."""
    return scores is None or scores.for_choice < good / 2


def _climb(height: Callable[[float], float], near: float, known: Collection[float]) -> float:
    """Return the top of a hill: a multiple at which `height` is larger than at twice and at half of it.

    Args:
        height: the height at a multiple; -inf where students fail.
        near: where to begin, unless a known multiple is higher, since failed students may hide the hill.
        known: multiples whose height is known already.
    """
    top = max([near, *known], key=height)
    if height(top) == -math.inf:
        lower, higher = [one for one in reversed(_MULTIPLES) if one < near], [one for one in _MULTIPLES if one > near]
        top = next((one for one in (*lower, *higher) if height(one) > -math.inf), near)
    for factor in (2.0, 0.5):
        while MIN_MULTIPLE <= factor * top <= MAX_MULTIPLE and height(factor * top) > height(top):
            top *= factor
    return top


def best_multiple(
    score: Callable[[Sequence[float]], Sequence[ScoresOnVal | None]],
    others_train_at: Callable[[float, ScoresOnVal], bool] = lambda multiple, first: True,
    *,
    near: float = 1.0,
    chance: float = -math.inf,
    neighbours_at_once: bool = False,
) -> tuple[float, ScoresOnVal]:
    """Find the best LR multiplier, a power of two: double it while the score rises; otherwise halve it.

    Where the student learns nothing, its scores are chance and do not show which way is up. So such a multiple counts
    as the lowest, unless all are like that. If `near` is like that, lower multiples are tried first, then higher ones.

    If the student fails at twice the best multiple, other students may fail at the best one. They are asked then, and
    the multiple is halved until all train.

    Args:
        score: returns val scores of a student at each of the given multiples, and None for one that diverges.
        others_train_at: says if students of other seeds train at a multiple, given the first student's scores there.
        near: the multiple to begin with.
        chance: the r_mean of a random ranking, in percent.
        neighbours_at_once: score `near` and both its neighbours in one call, which takes little longer than one.

    Returns:
        The best multiple, and its scores.

    Raises:
        NonFiniteError: students diverge at 1/32 of the learning rates too.
    """
    scores_at: dict[float, ScoresOnVal | None] = {}
    learned_nothing = min(_TIMES_CHANCE * chance, chance + _PART_ABOVE_CHANCE * (100 - chance))

    def r_mean_at(*multiples: float) -> float:
        missing = [multiple for multiple in multiples if multiple not in scores_at]
        if missing:
            scores_at.update(zip(missing, score(missing), strict=True))
        first_scores = scores_at[multiples[0]]
        return -math.inf if first_scores is None else first_scores.for_choice

    def r_mean_if_learned(multiple: float) -> float:
        r_mean = r_mean_at(multiple)
        return r_mean if r_mean > learned_nothing else -math.inf

    if neighbours_at_once:
        r_mean_at(*(factor * near for factor in FIRST_FACTORS))
    height = r_mean_if_learned
    best = _climb(height, near, scores_at)
    if height(best) == -math.inf:  # the set teaches nothing at any learning rate
        height = r_mean_at
        best = _climb(height, near, scores_at)

    def all_train_at(multiple: float) -> bool:
        first_trains, first_scores = height(multiple) > -math.inf, scores_at[multiple]
        return first_trains and first_scores is not None and others_train_at(multiple, first_scores)

    if height(best) > -math.inf and 2 * best in scores_at and _failed(scores_at[2 * best], height(best)):
        while best > MIN_MULTIPLE and not all_train_at(best):
            best /= 2
        r_mean_at(best)  # at the lowest multiple nobody has been asked yet
    best_scores = scores_at[best]
    if best_scores is None:
        raise NonFiniteError(
            f"Students diverge at 1/{round(1 / MIN_MULTIPLE)} of the learning rates too. If a distillation learned "
            "them, lower its distill.start_rate or distill.rate_lr."
        )
    return best, best_scores
