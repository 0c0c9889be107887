"""The best few measured again: who wins, and what is said of it."""

import dataclasses
import json
import math

import pytest

from raydd.tuning import study as studies
from raydd.tuning.redraws import draws_of, standard_error
from raydd.tuning.results import RESULT, candidates, conclude
from raydd.tuning.samplers import renew_sampler


@pytest.fixture
def study(config, space, address):
    study = studies.open_study(config, space, address)
    for score in (50.0, 49.0, 48.0, 47.0):
        renew_sampler(study, 0)
        trial = study.ask()
        trial.set_user_attr(studies.SETTINGS, space.settings(trial))
        study.tell(trial, score)
    study.set_user_attr("draws", {"0": [46.0, 46.4], "1": [48.0, 48.8]})
    return study


def test_the_mean_of_the_new_draws_ranks_and_the_others_follow(study):
    found = candidates(study, ["r_mean"])
    assert [one.number for one in found] == [1, 0, 2, 3]
    assert [one.r_mean for one in found] == pytest.approx([48.4, 46.2, 48.0, 47.0])
    assert found[0].cheap == 49.0
    assert draws_of(study)[0] == [46.0, 46.4]


def test_the_standard_error_is_that_of_a_mean_with_the_pooled_spread():
    draws = [[46.0, 46.4], [48.0, 48.8]]
    pooled = math.sqrt((0.08 + 0.32) / 2)
    assert standard_error(draws[0], draws) == pytest.approx(pooled / math.sqrt(2))
    assert standard_error([1.0, 2.0, 3.0], [[1.0, 2.0, 3.0], []]) == pytest.approx(1 / math.sqrt(3))
    assert math.isnan(standard_error([1.0], [[1.0], [2.0]]))
    assert math.isnan(standard_error([], draws))


def test_what_is_said_of_the_best_has_its_error(study, config, tmp_path):
    result = conclude(study, config, [], {})
    assert result.best.in_words() == "48.40 ± 0.32 (mean of 2 new draws; 49.00 as a trial)"
    assert dataclasses.replace(result.best, draws=()).in_words() == "49.00 (one distillation, the best of many)"
    result.write(tmp_path)
    written = json.loads((tmp_path / RESULT).read_text())
    assert written["best"]["draws"] == [48.0, 48.8]
    assert written["best"]["error"] == pytest.approx(math.sqrt(0.2 / 2))
    study.set_user_attr("draws", {})
    conclude(study, config, [], {}).write(tmp_path)
    assert json.loads((tmp_path / RESULT).read_text())["best"]["error"] is None
