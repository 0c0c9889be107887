"""Chooses cheap first trials for a search by gain per second (the sampler per-second).

A model needs some trials before it can choose. Random trials are mostly expensive: a trial with wide heads, or with
targets ten epochs ahead, needs experts that no other trial reads. So each first trial is the cheapest of several random
settings, where experts of earlier trials are free. This is the cost-effective initial design of Lee et al.
(arXiv:2003.10870), except that the cost is computed in advance, while theirs is learned.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from raydd.tuning.prices import Cost, total
from raydd.tuning.samplers import STARTUP_TRIALS
from search_spaces import Space

CANDIDATES = 16  # random settings, of which the cheapest becomes a first trial
_SHARE = 8  # one in this many trials is a first one: most are stopped within seconds, and good settings may be anywhere

CostOf = Callable[[Mapping[str, Any]], Cost]
"""Returns the cost of a trial with the given settings; experts that other trials may read too are listed one by one."""


def cheap_start_count(trials: int) -> int:
    """Return how many of a sweep's trials come before the first one that a model draws."""
    return max(STARTUP_TRIALS, trials // _SHARE)


def queue_cheap_starts(study: optuna.Study, space: Space, seed: int, trials: int, cost_of: CostOf) -> None:
    """Queue cheap trials until the study has as many trials as `cheap_start_count` says; none if it already has.

    Args:
        study: the sweep's study.
        space: the search space.
        seed: seed of the random settings, `sweep.seed`.
        trials: trials that the sweep should have in the end, `sweep.trials`.
        cost_of: returns the cost of a trial; called once for each.
    """
    numbers = range(len(study.get_trials(deepcopy=False)), cheap_start_count(trials))
    costs = [cost_of(settings) for settings in queued_settings(study, space)] if numbers else []
    for number in numbers:
        sampled = _random_settings(space, np.random.SeedSequence([seed, number]).generate_state(CANDIDATES).tolist())
        priced = [(trial, cost_of(settings)) for trial, settings in sampled]
        cheapest, cost = min(priced, key=lambda pair: total([*costs, pair[1]]))
        study.enqueue_trial(cheapest.params)
        costs.append(cost)


def queued_settings(study: optuna.Study, space: Space) -> list[dict[str, Any]]:
    """Return the dotted settings of the queued trials, except trials that leave a setting open."""
    queued = []
    for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        fixed_params = waiting.system_attrs["fixed_params"]
        trial, settings = trial_with_params(space, fixed_params)
        if trial.params.keys() <= fixed_params.keys():
            queued.append(settings)
    return queued


def trial_with_params(space: Space, params: Mapping[str, Any]) -> tuple[optuna.Trial, dict[str, Any]]:
    """Return a trial with the given values, others at random, and all settings that the space sets in it."""
    scratch = optuna.create_study(sampler=RandomSampler(seed=0))
    scratch.enqueue_trial(dict(params))
    trial = scratch.ask()
    return trial, space.settings(trial)


def _random_settings(space: Space, seeds: Sequence[int]) -> list[tuple[optuna.Trial, dict[str, Any]]]:
    """Return a trial with random values for each seed, and all settings that the space sets in it."""
    trials = [optuna.create_study(sampler=RandomSampler(seed=seed)).ask() for seed in seeds]
    return [(trial, space.settings(trial)) for trial in trials]
