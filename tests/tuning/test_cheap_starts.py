"""The first trials of a search by gain per second: cheap ones, which share what they need."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler

from raydd.tuning.cheap_starts import CANDIDATES, queue_cheap_starts, queued_settings
from raydd.tuning.prices import Cost
from raydd.tuning.samplers import STARTUP_TRIALS
from search_spaces import Space


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    trial.suggest_int("distill.steps", 100, 1000, log=True)
    trial.suggest_categorical("experts.lr", [0.1, 0.2, 0.4])
    return {"distill.momentum": 0.25}


SPACE = Space("small", suggest)


def cost_of(trial: Mapping[str, Any]) -> Cost:
    """A second a step, and a thousand for the experts of each rate."""
    return Cost(trial["distill.steps"], {(str(trial["experts.lr"]), 0): 1000.0})


def seconds(trials: Sequence[Mapping[str, Any]]) -> float:
    return sum(trial["distill.steps"] for trial in trials) + 1000 * len({trial["experts.lr"] for trial in trials})


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize", sampler=RandomSampler(seed=0))


def test_the_trials_are_cheap_and_share_experts(study: optuna.Study) -> None:
    queue_cheap_starts(study, SPACE, 0, 24, cost_of)
    queued = queued_settings(study, SPACE)
    assert len(queued) == STARTUP_TRIALS
    assert len({trial["experts.lr"] for trial in queued}) == 1
    assert all(trial["distill.momentum"] == 0.25 for trial in queued)
    # The cheapest of some five trials of its rate: the logarithm of its steps is a sixth of the range up on average.
    up = [math.log(trial["distill.steps"] / 100) / math.log(10) for trial in queued]
    assert sum(up) / len(up) < 0.35


def test_each_is_the_cheapest_of_its_draws_and_each_is_priced_once(study: optuna.Study) -> None:
    study.enqueue_trial({"distill.steps": 500, "experts.lr": 0.4})
    seen: list[Mapping[str, Any]] = []

    def noting(trial: Mapping[str, Any]) -> Cost:
        seen.append(trial)
        return cost_of(trial)

    queue_cheap_starts(study, SPACE, 0, 24, noting)
    first, *queued = queued_settings(study, SPACE)
    assert len(seen) == 1 + CANDIDATES * (STARTUP_TRIALS - 1)
    assert seen.pop(0) == first
    for place, chosen in enumerate(queued):
        before, among = [first, *queued[:place]], seen[CANDIDATES * place : CANDIDATES * (place + 1)]
        assert seconds([*before, chosen]) == min(seconds([*before, one]) for one in among)


def test_the_same_seed_queues_the_same_and_a_killed_driver_s_successor_the_rest(study: optuna.Study) -> None:
    queue_cheap_starts(study, SPACE, 3, 24, cost_of)
    whole = queued_settings(study, SPACE)
    other = optuna.create_study(sampler=RandomSampler(seed=0))
    queue_cheap_starts(other, SPACE, 4, 24, cost_of)
    assert queued_settings(other, SPACE) != whole
    broken = optuna.create_study(sampler=RandomSampler(seed=0))
    for trial in study.get_trials()[:3]:
        broken.enqueue_trial(trial.system_attrs["fixed_params"])
    queue_cheap_starts(broken, SPACE, 3, 24, cost_of)
    assert queued_settings(broken, SPACE) == whole


def test_trials_that_are_there_take_their_places(study: optuna.Study) -> None:
    study.enqueue_trial({"distill.steps": 500, "experts.lr": 0.4})
    study.ask()
    queue_cheap_starts(study, SPACE, 0, 24, cost_of)
    assert len(queued_settings(study, SPACE)) == STARTUP_TRIALS - 1
    before = len(study.get_trials())
    queue_cheap_starts(study, SPACE, 0, 24, cost_of)
    assert len(study.get_trials()) == before


def test_a_long_sweep_begins_with_more(study: optuna.Study) -> None:
    queue_cheap_starts(study, SPACE, 0, 200, cost_of)
    assert len(queued_settings(study, SPACE)) == 25


def test_a_queued_trial_that_leaves_a_setting_open_has_no_settings_yet(study: optuna.Study) -> None:
    study.enqueue_trial({"distill.steps": 500})
    study.enqueue_trial({"distill.steps": 400, "experts.lr": 0.4, "distill.blend": "none"})
    assert queued_settings(study, SPACE) == [{"distill.steps": 400, "experts.lr": 0.4, "distill.momentum": 0.25}]
