import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydd.errors import NonFiniteError
from raydd.stages.students import LEAST, MOST, best_multiple


@given(st.integers(-7, 7))
def test_a_climb_ends_at_the_top_of_a_hill(top: int) -> None:
    asked = []

    def score(multiple: float) -> float:
        asked.append(multiple)
        return -abs(math.log2(multiple) - top)

    assert best_multiple(score) == 2.0 ** max(-5, min(5, top))
    assert len(asked) == len(set(asked))


def test_rates_that_hold_are_found_below_those_that_diverge() -> None:
    def score(multiple: float) -> float:
        if multiple > 1 / 8:
            raise NonFiniteError("diverged")
        return 10 * multiple

    assert best_multiple(score) == 1 / 8


def test_students_that_always_diverge_are_an_error() -> None:
    asked = []

    def score(multiple: float) -> float:
        asked.append(multiple)
        raise NonFiniteError("diverged")

    with pytest.raises(NonFiniteError):
        best_multiple(score)
    assert max(asked) <= MOST
    assert min(asked) == LEAST
