"""The settings of a comparison's rows: equal budgets, and how each published code scores."""

import pytest

from raydd.compare.plans import RowPlan, plan_of
from raydd.config import Config
from raydd.distill.methods import find_method
from raydd.presets import PRESETS
from raydd.settings import with_settings


def plan(method: str, variant: str = "", **compare: object) -> RowPlan:
    config = with_settings(Config(), {f"compare.{name}": value for name, value in compare.items()})
    settings = find_method(method).published if variant else {}
    return plan_of(config, method, "data", 99, variant, settings)


def test_what_learns_no_similarity_gets_its_pair() -> None:
    methods = ("random", "mtt-vl", "tesla-vl", "lors", "repblend", "repblend-identity", "repblend-full")
    rows = {method: plan(method) for method in methods}
    pairs = {method: row.config.distill.pairs for method, row in rows.items()}
    assert pairs == dict.fromkeys(methods[:3], 100) | dict.fromkeys(methods[3:], 99) | {"repblend-identity": 100}
    assert {row.pairs for row in rows.values()} == {100}  # the budget, by which rows stand in one table


def test_a_row_may_have_fewer_pairs_than_its_similarity_matrix_has_ranks() -> None:
    few = plan_of(Config(), "lors", "data", 3, "", {}).config.distill
    assert few.rank > few.pairs == few.similarity_rank == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_a_row_of_a_preset_has_its_method_and_its_distillation(preset: str) -> None:
    settings, row = PRESETS[preset].settings, plan_of(Config(), preset, "data", 99, "", {})
    assert row.config.distill.method == PRESETS[preset].method
    assert row.config.distill.steps == settings.get("distill.steps", Config().distill.steps)
    assert row.config.experts == Config().experts  # one table has the same experts


def test_published_rows_take_published_steps() -> None:
    for method in ("mtt-vl", "tesla-vl", "lors", "repblend"):
        assert plan(method, "published settings").config.distill.steps == 3000
    assert plan("mtt-vl", "published settings").config.distill.minibatch == 100
    assert plan("tesla-vl", "published settings").config.distill.loss == "wbce"


def test_each_method_is_scored_as_its_code_does_where_that_is_asked_for() -> None:
    told = {}
    for method in ("random", "mtt-vl", "tesla-vl", "lors", "repblend", "repblend-noise"):
        config = plan(method, choice="published").config
        told[method] = config.evaluate.choice, config.evaluate.checks, config.students.epochs, config.students.rate
    six = "best-on-split", 6, 100, "published"
    eleven = "best-on-split", 11, 100, "published"
    assert told == {
        "random": six,
        "mtt-vl": ("last", 6, 50, "published"),
        "tesla-vl": eleven,
        "lors": eleven,
        "repblend": six,
        "repblend-noise": six,
    }
    assert plan("mtt-vl").config.students.epochs == 100  # all alike under a held-out choice
