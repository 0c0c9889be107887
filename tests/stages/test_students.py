import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import METRICS, ScoresOnTest, ScoresOnVal
from raydd.stages.students import LEAST, MOST, best_multiple


def on_val(r_mean: float) -> ScoresOnVal:
    return ScoresOnVal((dict.fromkeys(METRICS, r_mean),))


def test_nothing_is_chosen_by_scores_on_test() -> None:
    with pytest.raises(AttributeError, match="for_choice"):
        best_multiple(lambda multiple: ScoresOnTest((dict.fromkeys(METRICS, multiple),)))  # type: ignore[arg-type, return-value]


@given(st.integers(-7, 7))
def test_a_climb_ends_at_the_top_of_a_hill(top: int) -> None:
    asked = []

    def score(multiple: float) -> ScoresOnVal:
        asked.append(multiple)
        return on_val(-abs(math.log2(multiple) - top))

    assert best_multiple(score) == 2.0 ** max(-5, min(5, top))
    assert len(asked) == len(set(asked))


def test_rates_that_hold_are_found_below_those_that_diverge() -> None:
    def score(multiple: float) -> ScoresOnVal:
        if multiple > 1 / 8:
            raise NonFiniteError("diverged")
        return on_val(10 * multiple)

    assert best_multiple(score) == 1 / 8


def test_students_that_always_diverge_are_an_error() -> None:
    asked = []

    def score(multiple: float) -> ScoresOnVal:
        asked.append(multiple)
        raise NonFiniteError("diverged")

    with pytest.raises(NonFiniteError):
        best_multiple(score)
    assert max(asked) <= MOST
    assert min(asked) == LEAST
