from dataclasses import replace

import pytest

from raydd.config import Config, EncodersConfig
from raydd.cost import seconds as costs
from raydd.settings import load


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    monkeypatch.setattr(costs, "core_speed", lambda width, rows: 1e10)


def test_longer_walks_take_longer():
    config = Config()
    longer = replace(config, distill=replace(config.distill, student_steps=10 * config.distill.student_steps))
    seconds = costs.trial_seconds(config, 1280, 384)
    assert 5 * seconds < costs.trial_seconds(longer, 1280, 384) < 10 * seconds


def test_a_check_of_a_curve_costs_the_students_that_fit_the_rates():
    config = Config()
    unfitted = replace(config, distill=replace(config.distill, fit_rates=False))
    end = [costs.seconds_of_trial(each, 1280, 384).end for each in (config, unfitted)]
    check = [costs.check_seconds(each, 1280, 384) for each in (config, unfitted)]
    assert check[0] - check[1] == pytest.approx(end[0] - end[1])  # the fit's own student is one of the trial's
    assert check[0] == pytest.approx(4 * check[1])


def test_experts_take_as_long_as_the_last_epoch_that_is_read():
    config = Config()
    further = replace(config, distill=replace(config.distill, target_epochs=3 * config.distill.target_epochs))
    seconds = costs.expert_seconds(config, 1280, 384, 600)
    assert costs.expert_seconds(further, 1280, 384, 600) == pytest.approx(3 * seconds)


def test_a_core_multiplies_at_a_plausible_speed(monkeypatch):
    monkeypatch.undo()
    assert 1e8 < costs.core_speed(256, 20) < 1e13


def test_pixels_cost_a_pass_a_step_and_pair(monkeypatch):
    monkeypatch.setattr(costs, "image_seconds", lambda encoders, images: 0.5)
    assert costs.pixel_seconds(load(settings={"pixels.steps": 10, "distill.pairs": 20})) == 10 * 20 * 0.5
    assert costs.pixel_seconds(load(settings={"distill.images": "features"})) == 0
    direct = {"distill.images": "pixels", "distill.pairs": 20, "distill.steps": 10, "distill.steps_per_encoding": 4}
    assert costs.pixel_seconds(load(settings=direct)) == 3 * 20 * 0.5
    still = {**direct, "distill.image_lr": 0}
    assert costs.pixel_seconds(load(settings=still)) == 20 * 0.5
    assert costs.pixel_seconds(load(settings={**still, "distill.least_crop": 0.5})) == 3 * 20 * 0.5


def test_an_image_takes_a_plausible_time():
    encoders = EncodersConfig(image="tiny_encoders:image")
    assert 1e-6 < costs.image_seconds(encoders, 4) < 1
