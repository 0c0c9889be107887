"""How long trials are expected to take: stopped at rungs by the pruner's own rule, experts trained once."""

from dataclasses import dataclass

import pytest

from raydd.config import SweepConfig
from raydd.tuning.expected import estimate_by_simulation, estimate_from_held
from raydd.tuning.prices import Cost


@dataclass(frozen=True)
class Steady:
    """A second a percent of the steps, and experts of a recipe from some percent on."""

    each: float = 1.0
    recipe: str = ""

    def until(self, stop: int) -> Cost:
        return Cost(self.each * stop, {(self.recipe, 0): 1000.0} if self.recipe else {})

    def to_begin(self) -> Cost:
        return self.until(100)


def played(trials: int, others: list[Steady], first: tuple[Steady, ...] = (), **sweep):
    return estimate_by_simulation(first, others, trials, SweepConfig(**sweep))


def test_without_a_pruner_every_trial_comes_to_its_end():
    found = played(200, [Steady()], pruner="none")
    assert (found.low, found.mean, found.high) == (20_000, 20_000, 20_000)
    assert played(1000, [Steady()], pruner="none").mean == 100_000


def test_a_third_of_the_trials_at_a_rung_goes_on():
    # Two thirds stop at 5 percent, two ninths at 15, two of 27 at 45 and the last of 27 at the end.
    each = 5 * 2 / 3 + 15 * 2 / 9 + 45 * 2 / 27 + 100 / 27
    found = played(200, [Steady()])
    assert each < found.mean / 200 < 1.15 * each  # those that are behind by no more than noise go on too
    assert found.low < found.mean < found.high < 1.5 * found.mean
    # The few of a short sweep come farther: one of the first three is always in front.
    assert played(9, [Steady()]).mean / 9 > 1.5 * each


@pytest.mark.parametrize(
    "sweep", [{"pruner": "hyperband"}, {"pruner": "median"}, {"pruner": "wilcoxon", "rung_students": 3}], ids=str
)
def test_every_pruner_stops_some(sweep):
    assert 0.1 < played(60, [Steady()], **sweep).mean / 6000 < 0.95


def test_experts_are_paid_once_a_recipe():
    two = [Steady(recipe="a"), Steady(recipe="b")]
    assert played(50, two, pruner="none").mean == 50 * 100 + 2 * 1000


def test_settings_that_differ_in_price_give_a_range():
    found = played(16, [Steady(each) for each in (1, 1, 1, 40)], pruner="none")
    assert found.high > 2 * found.low


def test_first_settings_are_the_first_trials():
    found = played(4, [Steady()], (Steady(50), Steady(50)), pruner="none")
    assert found.mean == 2 * 5000 + 2 * 100
    assert played(1, [Steady()], (Steady(50), Steady(50)), pruner="none").mean == 5000


def test_a_search_by_gain_per_second_begins_with_cheap_trials():
    mixed = [Steady(1, "a"), Steady(40, "b")]
    auto, cheap = played(7, mixed, pruner="none"), played(7, mixed, pruner="none", sampler="per-second")
    assert auto.mean > 5 * 1000
    assert cheap.high == 7 * 100 + 1000
    later = played(100, mixed, pruner="none", sampler="per-second")
    assert later.low == 100 * 100 + 1000
    assert later.high > 10 * later.low


def test_trials_that_are_over_give_a_range_by_their_spread_and_number():
    assert estimate_from_held([10.0], 8).high == 80
    few, many = estimate_from_held([5.0, 15.0], 8), estimate_from_held([5.0, 15.0] * 50, 8)
    assert few.mean == many.mean == 80
    assert few.high > many.high > 80
    assert estimate_from_held([10.0, 20.0], 0).mean == 0
