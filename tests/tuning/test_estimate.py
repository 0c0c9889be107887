from dataclasses import replace

import pytest

from raydd.config import Config
from raydd.tuning import estimate


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    monkeypatch.setattr(estimate, "core_speed", lambda width, rows: 1e10)


def test_longer_walks_take_longer():
    config = Config()
    longer = replace(config, distill=replace(config.distill, student_steps=10 * config.distill.student_steps))
    seconds = estimate.trial_seconds(config, 1280, 384)
    assert 5 * seconds < estimate.trial_seconds(longer, 1280, 384) < 10 * seconds


def test_experts_take_as_long_as_the_last_epoch_that_is_read():
    config = Config()
    further = replace(config, distill=replace(config.distill, target_epochs=3 * config.distill.target_epochs))
    seconds = estimate.expert_seconds(config, 1280, 384, 600)
    assert estimate.expert_seconds(further, 1280, 384, 600) == pytest.approx(3 * seconds)


def test_a_core_multiplies_at_a_plausible_speed(monkeypatch):
    monkeypatch.undo()
    assert 1e8 < estimate.core_speed(256, 20) < 1e13
