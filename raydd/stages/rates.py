"""The learning rate of students, chosen on val: how many times the one in hand."""

import functools
from collections.abc import Callable
from dataclasses import replace

from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError

LEAST, MOST = 1 / 32, 32.0


def best_multiple(score: Callable[[float], float]) -> float:
    """The power of two by which rates are multiplied: doubled from 1 while the score rises, or else halved.

    Args:
        score: val r_mean of a student at so many times the rates; one that diverges is worse than any other.

    Raises:
        NonFiniteError: students diverge at 1/32 of the rates too.
    """

    @functools.cache
    def scored(multiple: float) -> float:
        try:
            return score(multiple)
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


def fit_rates(synthetic: SyntheticSet, score: Callable[[SyntheticSet], float]) -> tuple[SyntheticSet, float]:
    """The set with the multiple of its learned rates that is best on val, and the multiple.

    Rates are learned for walks of some steps. A student of a hundred epochs goes another way: it does better with
    several times those rates where the similarity is the identity, with a part of them where pixels miss the features.

    Args:
        synthetic: the set with its learned rates.
        score: val r_mean of a student of a set.

    Raises:
        NonFiniteError: the students diverge whatever the rates.
    """

    def at(multiple: float) -> SyntheticSet:
        rates = multiple * synthetic.rate_image, multiple * synthetic.rate_text
        return replace(synthetic, rate_image=rates[0], rate_text=rates[1])

    best = best_multiple(lambda multiple: score(at(multiple)))
    return at(best), best
