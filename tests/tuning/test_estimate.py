from dataclasses import replace

import pytest

from raydd.config import Config
from raydd.tuning import estimate


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    monkeypatch.setattr(estimate, "core_speed", lambda width, rows: 1e10)


def seconds(config, **changes):
    return estimate.trials_seconds(
        config, **{"image_width": 1280, "text_width": 384, "captions": 600, "missing": 0, "trials": 1, **changes}
    )


def test_trials_and_missing_experts_add_up():
    config = Config()
    assert seconds(config, trials=4) == pytest.approx(4 * seconds(config))
    assert seconds(config, trials=0, missing=20) == pytest.approx(2 * seconds(config, trials=0, missing=10))
    assert seconds(config, trials=0) == 0


def test_longer_walks_take_longer():
    config = Config()
    longer = replace(config, distill=replace(config.distill, student_steps=10 * config.distill.student_steps))
    assert 5 * seconds(config) < seconds(longer) < 10 * seconds(config)


def test_a_core_multiplies_at_a_plausible_speed(monkeypatch):
    monkeypatch.undo()
    assert 1e8 < estimate.core_speed(256, 20) < 1e13
