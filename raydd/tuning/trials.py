"""Run the trials of a study with Ray Tune."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from raydd.config import SweepConfig
from raydd.tuning import study as studies
from raydd.tuning.searcher import Listener, StudySearch
from search_spaces import Space
from trainables.distill import SCORES

RESTARTS = 2  # of a trial whose process or node died; it goes on from its checkpoint in the store
FIRST_LOOK = 100 // SCORES  # percent of a trial's steps before it may be stopped as weak


def run_trials(
    trial: Callable[[Mapping[str, Any]], None],
    study: optuna.Study,
    space: Space,
    settings: SweepConfig,
    listeners: Sequence[Listener],
    *,
    folder: str,
    at_once: int,
) -> None:
    """Run trials until the study has `settings.trials` finished ones or the hours are over; returns when all ended.

    Args:
        trial: the trainable; it reports `TrialReport`s.
        study: where trials come from.
        space: suggests settings.
        settings: number, resources and scheduler of the trials.
        listeners: told of every trial.
        folder: where Tune writes, a folder or a bucket that every node reaches.
        at_once: trials that run together; 0 leaves it to the resources, which on a cluster may grow.
    """
    wanted = settings.trials - studies.finished(study)
    if wanted <= 0:
        return
    search = StudySearch(
        study,
        space,
        settings.objectives,
        listeners,
        seed=settings.seed,
        at_once=at_once,
        deadline=time.monotonic() + settings.hours * 3600 if settings.hours else math.inf,
    )
    tune.Tuner(
        tune.with_resources(trial, {"cpu": settings.cpus, "gpu": settings.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=_scheduler(settings),
            num_samples=wanted,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=settings.name,
            storage_path=folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
        ),
    ).fit()


def _scheduler(settings: SweepConfig) -> TrialScheduler:
    if not settings.stop_weak:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="percent", metric="r_mean", mode="max", max_t=100, grace_period=FIRST_LOOK, reduction_factor=2
    )


def _name(trial: Any) -> str:
    return f"trial-{trial.config['number']}-{trial.trial_id}"
