import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydd.errors import NonFiniteError
from raydd.stages.students import LEAST, MOST, best_multiple


@given(top=st.integers(-7, 7), side_by_side=st.booleans())
def test_a_climb_ends_at_the_top_of_a_hill(top: int, side_by_side: bool) -> None:
    asked: list[list[float]] = []

    def score(multiples: Sequence[float]) -> list[float]:
        asked.append(list(multiples))
        return [-abs(math.log2(multiple) - top) for multiple in multiples]

    assert best_multiple(score, side_by_side=side_by_side) == 2.0 ** max(-5, min(5, top))
    flat = [multiple for multiples in asked for multiple in multiples]
    assert len(flat) == len(set(flat))
    assert all(LEAST <= multiple <= MOST for multiple in flat)
    if top == 0:  # its neighbours are all that is tried
        assert len(flat) <= 3
        assert len(asked) == (1 if side_by_side else len(flat))


def test_rates_that_hold_are_found_below_those_that_diverge() -> None:
    assert best_multiple(lambda multiples: [10 * one if one <= 1 / 8 else -math.inf for one in multiples]) == 1 / 8


def test_students_that_always_diverge_are_an_error() -> None:
    asked: list[float] = []

    def score(multiples: Sequence[float]) -> list[float]:
        asked.extend(multiples)
        return [-math.inf for _ in multiples]

    with pytest.raises(NonFiniteError, match="1/32 of the learning rates"):
        best_multiple(score)
    assert max(asked) <= MOST
    assert min(asked) == LEAST
