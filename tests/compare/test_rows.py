"""The mean, deviation and cost of a row over its sets."""

import pytest
from made_sets import made_set

import raydd
from raydd.compare.plans import plan_of
from raydd.compare.rows import MadeSet, Row, make_set
from raydd.config import Config
from raydd.settings import with_settings
from raydd.stages import collapse_over_steps, records_of


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


def test_measures_of_collapse_end_with_those_of_the_finished_set() -> None:
    made = made_set("features-then-pixels")
    work = raydd.open(with_settings(made.config, {"compare.checks": 0}), made.store)
    plan = plan_of(work.config, "repblend", "tiny", 6, "", {})
    points = make_set(plan, 0, raydd.open(plan.config, made.store)).collapse
    features, pixels = map(collapse_over_steps, records_of(raydd.open(plan.config, made.store)))
    assert [point["step"] for point in points] == sorted({point["step"] for point in points})
    assert points[-1]["step"] == features[-1]["step"] + pixels[-1]["step"]
    assert points[-1] == pixels[-1] | {"step": points[-1]["step"]}
    assert points[-1]["collapse/modality_gap"] != features[-1]["collapse/modality_gap"]
