"""The first trials of a search by gain per second that nobody gave settings for: cheap ones, which share their experts.

A model needs some trials before it can choose. At random, most of them are dear: one with wide heads, or one whose
targets lie ten epochs on, has experts trained that no other trial reads. So each is the cheapest of some random
settings, what the trials before it have made being free: the cost-effective initial design of Lee et al.
(arXiv:2003.10870), with the cost counted beforehand where theirs is learned.
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

CANDIDATES = 16  # random settings of which a first trial is the cheapest
_SHARE = 8  # one in so many trials of a sweep: most are stopped within seconds, and what is good may lie anywhere

CostOf = Callable[[Mapping[str, Any]], Cost]
"""What a trial of these settings costs to begin with, what it may share with others named."""


def cheap_starts(trials: int) -> int:
    """How many trials of a sweep of so many come before the first one that a model draws."""
    return max(STARTUP_TRIALS, trials // _SHARE)


def queue_cheap_starts(study: optuna.Study, space: Space, seed: int, trials: int, cost_of: CostOf) -> None:
    """Queue cheap trials until the study has as many as come first; none if it has them.

    Args:
        study: the sweep's.
        space: what it searches.
        seed: of the random settings, `sweep.seed`.
        trials: that the sweep is to have, `sweep.trials`.
        cost_of: what one costs; asked once for each.
    """
    places = range(len(study.get_trials(deepcopy=False)), cheap_starts(trials))
    before = [cost_of(settings) for settings in queued_settings(study, space)] if places else []
    for place in places:
        drawn = _random_settings(space, np.random.SeedSequence([seed, place]).generate_state(CANDIDATES).tolist())
        priced = [(trial, cost_of(settings)) for trial, settings in drawn]
        cheapest, cost = min(priced, key=lambda one: total([*before, one[1]]))
        study.enqueue_trial(cheapest.params)
        before.append(cost)


def queued_settings(study: optuna.Study, space: Space) -> list[dict[str, Any]]:
    """The dotted settings of the trials that wait in the study's queue, but for those that leave a setting open."""
    found = []
    for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        given = waiting.system_attrs["fixed_params"]
        trial, settings = of_params(space, given)
        if trial.params.keys() <= given.keys():
            found.append(settings)
    return found


def of_params(space: Space, given: Mapping[str, Any]) -> tuple[optuna.Trial, dict[str, Any]]:
    """A trial with these values, others at random, and all that the space sets in it."""
    scratch = optuna.create_study(sampler=RandomSampler(seed=0))
    scratch.enqueue_trial(dict(given))
    trial = scratch.ask()
    return trial, space.settings(trial)


def _random_settings(space: Space, seeds: Sequence[int]) -> list[tuple[optuna.Trial, dict[str, Any]]]:
    """A trial with random settings for each seed, and all that the space sets in it."""
    trials = [optuna.create_study(sampler=RandomSampler(seed=seed)).ask() for seed in seeds]
    return [(trial, space.settings(trial)) for trial in trials]
