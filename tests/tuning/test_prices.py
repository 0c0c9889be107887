"""What a trial costs wherever it ends, and what several do together."""

import math
from pathlib import Path

import pytest
from stage_settings import TINY

import raydd
from raydd.config import Config
from raydd.cost import seconds as costs
from raydd.protocols import Workbench, changed
from raydd.settings import with_settings
from raydd.store import Store
from raydd.tuning.prices import Cost, Price, total

SETTINGS = {
    **TINY,
    "distill.steps": 200,
    "distill.all_experts_at": 50,
    "experts.count": 20,
    "sweep.rung_students": 1,
}


@pytest.fixture
def trial(tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    monkeypatch.setattr(costs, "core_speed", lambda width, rows: 1e9)
    return raydd.open(with_settings(Config(), {**SETTINGS, "data.root": str(tiny_data)}), store)


def test_an_expert_that_several_read_is_paid_once_by_whoever_needs_most_of_it() -> None:
    one, other = Cost(1.0, {("a", 0): 10.0, ("a", 1): 10.0}), Cost(2.0, {("a", 0): 30.0, ("b", 0): 5.0})
    assert total([one, other]) == 1 + 2 + 30 + 10 + 5
    assert total([]) == 0


def test_a_trial_pays_for_what_it_came_to(trial: Workbench) -> None:
    price, widths = Price(trial), trial.feature_widths
    assert widths is not None
    at = {percent: price.until(percent) for percent in (5, 15, 45, 100)}
    assert [len(cost.experts) for cost in at.values()] == [2, 6, 18, 20]
    step, rung = costs.seconds_of_trial(trial.config, *widths).steps / 200, at[15].own - at[5].own
    assert at[5].own == pytest.approx(10 * step + (rung - 20 * step))
    assert at[45].own == pytest.approx(at[15].own + 60 * step + (rung - 20 * step))
    assert at[100].own == pytest.approx(costs.trial_seconds(trial.config, *widths))
    assert price.to_begin() == Cost(at[100].own, at[5].experts)
    unpruned = Price(changed(trial, {"sweep.pruner": "none"})).to_begin()
    assert len(unpruned.experts) == 20


def test_nothing_is_known_of_trials_that_train_the_encoder(trial: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(trial), "feature_widths", None)
    assert math.isnan(total([Price(trial).to_begin()]))


def test_experts_that_the_store_has_cost_nothing(trial: Workbench) -> None:
    seconds = total([Price(trial).until(100)])
    changed(trial, {"experts.count": 1}).experts()
    assert sorted(Price(trial).until(100).experts) == [
        (trial.experts_record.fingerprint, expert) for expert in range(1, 20)
    ]
    assert total([Price(trial).until(100)]) < seconds
