"""The mean, deviation and cost of a row over its sets."""

import pytest

from raydd.compare.plans import plan_of
from raydd.compare.rows import MadeSet, Row
from raydd.config import Config


def test_a_row_of_one_set_has_no_deviation() -> None:
    def made(number: int, *r_means: float) -> MadeSet:
        students = [{"r_mean": r_mean} for r_mean in r_means]
        cpu = None if number else 2.0
        return MadeSet(number, students, 8, 1.0 + number, cpu, None, 10, 40, "synthetic/0")

    plan = plan_of(Config(), "lors", "data", 99, "", {})
    one = Row(plan, [made(0, 30.0, 32.0)], (29.0, 33.0))
    two = Row(plan, [made(0, 30.0, 32.0), made(1, 32.0, 34.0)], (29.0, 34.0))
    assert (one.mean("r_mean"), one.std("r_mean")) == (31.0, None)
    assert (two.mean("r_mean"), two.std("r_mean")) == (32.0, pytest.approx(2**0.5))
    assert (two.cost("seconds"), two.cost("cpu_seconds"), one.cost("cpu_seconds")) == (1.5, None, 2.0)
