"""Curves over the steps: those of a distillation that is made, one that was interrupted, and one made once more."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_settings import TINY, Work

import raydd
from raydd import stages
from raydd.config import Config
from raydd.progress import Leave
from raydd.settings import with_settings
from raydd.stages.curves import curve_record, rise, val_curve
from raydd.store import Store


@pytest.fixture
def config(tiny_data: Path) -> Config:
    return with_settings(Config(), {**TINY, "data.root": str(tiny_data), "distill.images": "features"})


def told(curve: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(point["step"], point["r_mean"]) for point in curve]


def leave(work: str, done: int, total: int) -> None:
    """A progress that interrupts a distillation at its fifth step."""
    if work == "distillation steps" and done == 5:
        raise Leave


@pytest.mark.parametrize("fit", [True, False])
def test_a_set_that_is_there_has_the_curve_that_it_would_have_had(config: Config, tmp_path: Path, fit: bool) -> None:
    config = with_settings(config, {"distill.fit_rates": fit})
    first, later = (raydd.open(config, Store(tmp_path / name)) for name in ("first", "later"))
    stages.final_synthetic(later)
    curve, again = val_curve(first, 3), val_curve(later, 3)
    assert [step for step, _ in told(curve)] == [3, 6, 8]
    assert told(again) == told(curve)
    assert all(0 < a["cpu_seconds"] < b["cpu_seconds"] for a, b in pairwise(curve))
    last = stages.score_students(first, stages.final_synthetic(first), split="val", seeds=[0])
    assert curve[-1]["r_mean"] == last.for_choice
    work = Work()
    assert val_curve(raydd.open(config, Store(tmp_path / "first"), work), 3) == curve
    assert work.done == {}


@pytest.mark.parametrize("images", ["features", "features-then-pixels"])
def test_without_steps_there_is_a_set_but_no_curve(config: Config, store: Store, images: str) -> None:
    work = raydd.open(with_settings(config, {"distill.steps": 0, "distill.images": images}), store)
    assert val_curve(work, 3) == []
    assert curve_record(work, 3).complete
    made = stages.final_synthetic(work)
    torch.testing.assert_close(made.text_features, work.start().text_features)
    assert stages.synthetic_record(work).facts()["seconds"] == 0


def test_an_interrupted_curve_goes_on(config: Config, tmp_path: Path) -> None:
    whole = told(val_curve(raydd.open(config, Store(tmp_path / "whole")), 4))

    work: Any = raydd.open(config, Store(tmp_path / "broken"), leave)
    with pytest.raises(Leave):
        val_curve(work, 4)
    assert not curve_record(work, 4).complete
    assert told(curve_record(work, 4).read_json("curve.json")) == whole[:2]
    curve = val_curve(raydd.open(config, Store(tmp_path / "broken")), 4)
    assert told(curve) == whole
    assert all(0 < a["cpu_seconds"] < b["cpu_seconds"] for a, b in pairwise(curve))


def test_a_distillation_that_began_without_a_curve_has_all_its_checks(config: Config, tmp_path: Path) -> None:
    whole = told(val_curve(raydd.open(config, Store(tmp_path / "whole")), 4))

    begun: Any = raydd.open(config, Store(tmp_path / "begun"), leave)
    with pytest.raises(Leave):
        for _ in stages.distill(begun):
            pass
    assert told(val_curve(raydd.open(config, Store(tmp_path / "begun")), 4)) == whole


def test_the_curve_of_pixels_found_is_that_of_their_features(config: Config, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    features = val_curve(raydd.open(config, store), 2)
    assert (
        val_curve(raydd.open(with_settings(config, {"distill.images": "features-then-pixels"}), store), 2) == features
    )


def test_the_rise_is_of_the_last_quarter_over_the_one_before() -> None:
    curve = [{"step": step, "r_mean": r_mean} for step, r_mean in ((4, 9.0), (5, 1.0), (6, 2.0), (7, 4.0), (8, 5.0))]
    assert rise(curve, 8) == 3.0
    assert rise(curve[:3], 8) is None
