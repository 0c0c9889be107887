"""The time that a comparison still takes."""

import pytest

from raydd.compare.making import SetKey, seconds_left
from raydd.compare.plans import plan_of
from raydd.config import Config


@pytest.fixture
def sets() -> list[SetKey]:
    return [(plan_of(Config(), "random", "data", 3, "", {}), number) for number in range(6)]


def test_nothing_is_said_before_a_set_is_made(sets: list[SetKey]):
    assert seconds_left(dict.fromkeys(sets, 1.0), {}, 2, 100.0) == 0


def test_long_sets_that_run_are_not_taken_for_slow_ones(sets: list[SetKey]):
    estimates = dict(zip(sets, (10.0, 10.0, 150.0, 150.0, 10.0, 10.0), strict=True))
    made = {sets[0]: 20.0, sets[1]: 20.0}  # each took twice its estimate, and 340 make 680 s in two slots: 340 s
    assert seconds_left(estimates, made, 2, 20.0) == 320
    assert seconds_left(estimates, made, 2, 220.0) == 120
    assert seconds_left(estimates, made, 2, 400.0) == 0
