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

from raydd.tuning.samplers import STARTUP_TRIALS
from search_spaces import Space

CANDIDATES = 16  # random settings of which a first trial is the cheapest

Seconds = Callable[[Sequence[Mapping[str, Any]]], float]
"""Expected time of trials of these settings together, what they share being made once."""


def queue_cheap_starts(study: optuna.Study, space: Space, seed: int, seconds: Seconds) -> None:
    """Queue cheap trials until the study has as many as a model needs; none if it has them.

    Args:
        study: the sweep's.
        space: what it searches.
        seed: of the random settings, `sweep.seed`.
        seconds: what they cost.
    """
    before = queued_settings(study, space)
    for place in range(len(study.get_trials(deepcopy=False)), STARTUP_TRIALS):
        drawn = _random_settings(space, np.random.SeedSequence([seed, place]).generate_state(CANDIDATES).tolist())
        cheapest, settings = min(drawn, key=lambda one: seconds([*before, one[1]]))
        study.enqueue_trial(cheapest.params)
        before.append(settings)


def queued_settings(study: optuna.Study, space: Space) -> list[dict[str, Any]]:
    """The dotted settings of the trials that wait in the study's queue, but for those that leave a setting open."""
    found = []
    for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        given = waiting.system_attrs["fixed_params"]
        scratch = optuna.create_study(sampler=RandomSampler(seed=0))
        scratch.enqueue_trial(given)
        trial = scratch.ask()
        settings = space.settings(trial)
        if trial.params.keys() <= given.keys():
            found.append(settings)
    return found


def _random_settings(space: Space, seeds: Sequence[int]) -> list[tuple[optuna.Trial, dict[str, Any]]]:
    """A trial with random settings for each seed, and all that the space sets in it."""
    trials = [optuna.create_study(sampler=RandomSampler(seed=seed)).ask() for seed in seeds]
    return [(trial, space.settings(trial)) for trial in trials]
