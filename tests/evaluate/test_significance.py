"""The paired test against its formula, and what it says of rows that are clearly apart or alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from raydd.evaluate.significance import p_values_against_best, paired_p, rises

scores = st.lists(st.floats(0, 100), min_size=5, max_size=5)


@given(one=scores, other=scores)
def test_p_is_that_of_student_s_t(one: list[float], other: list[float]) -> None:
    differences = np.subtract(one, other)
    if np.ptp(differences) < 1e-6:
        return
    statistic = differences.mean() / (differences.std(ddof=1) / 5**0.5)
    assert paired_p(one, other) == pytest.approx(2 * t.sf(abs(statistic), 4), rel=1e-6, abs=1e-12)


def test_constant_differences() -> None:
    assert paired_p([1, 2, 3], [1, 2, 3]) == 1
    assert paired_p([2, 3, 4], [1, 2, 3]) == 0


def test_the_correction_multiplies_by_the_pairs_of_rows_that_remain() -> None:
    best = [50.0, 52, 51, 53, 50]
    rows = {"near": [49.0, 52, 50, 53, 50], "far": [20.0, 21, 22, 20, 21], "best": best}
    found = p_values_against_best({name: dict(enumerate(scores)) for name, scores in rows.items()})
    assert set(found) == {"near", "far"}
    assert found["far"] == pytest.approx(3 * paired_p(best, rows["far"]))
    assert found["near"] == pytest.approx(paired_p(best, rows["near"]))
    assert found["far"] < 0.01 < found["near"]


def test_few_tables_of_equal_rows_call_one_of_them_worse() -> None:
    rng = np.random.default_rng(0)
    tables = [{f"row {n}": dict(enumerate(rng.normal(size=5))) for n in range(9)} for _ in range(200)]
    with_a_worse_row = sum(min(p_values_against_best(table).values()) < 0.05 for table in tables)
    assert 0 < with_a_worse_row <= 0.05 * len(tables)


def test_one_seed_says_nothing() -> None:
    assert p_values_against_best({"a": {0: 1.0}, "b": {0: 2.0}}) == {}


def test_rows_are_paired_over_the_sets_that_both_have() -> None:
    best, near = {0: 50.0, 1: 52.0, 3: 53.0, 4: 50.5}, {0: 49.0, 1: 52.5, 2: 51.0, 3: 51.0, 4: 50.0}
    found = p_values_against_best({"best": best, "near": near, "one in common": {2: 20.0, 3: 21.0}})
    both = [0, 1, 3, 4]
    expected = paired_p([best[number] for number in both], [near[number] for number in both])
    assert found == {"near": pytest.approx(expected)}


def test_a_row_above_the_best_where_both_have_sets_is_not_below_it() -> None:
    assert p_values_against_best({"best": {0: 50.0, 1: 52.0}, "other": {0: 51.0, 1: 53.0, 2: 20.0}}) == {"other": 1.0}


def test_sets_rise_where_they_gain_alike() -> None:
    assert rises([0.5, 0.6, 0.4, 0.5, 0.55]) is True
    assert rises([0.5, -0.6, 0.4, -0.5, 0.55]) is False
    assert rises([-0.5, -0.6, -0.4]) is False
    assert (rises([0.3, 0.3]), rises([0.0, 0.0])) == (True, False)
    assert rises([0.5]) is None
