"""Run the trials of a study with Ray Tune."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from raydd.config import SweepConfig
from raydd.errors import PlaceError
from raydd.tuning import study as studies
from raydd.tuning.searcher import Listener, StudySearch
from raydd.tuning.steering import order_of
from search_spaces import Space
from trainables.distill import SCORES

RESTARTS = 2  # of a trial whose process or node died, and of runs with nothing to show; the store has what is done
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
    say: Callable[[str], None] = print,
) -> None:
    """Run trials until the study has `settings.trials` finished ones or the hours are over; returns when all ended.

    Trials that Ray kills because a machine's memory runs out are run again, half as many at once. Tune counts a trial
    that a lost node or the store ended as one of its own, so what such trials leave missing is run again.

    Args:
        trial: the trainable; it reports `TrialReport`s.
        study: where trials come from.
        space: suggests settings.
        settings: number, resources and scheduler of the trials.
        listeners: told of every trial.
        folder: where Tune writes, a folder or a bucket that every node reaches.
        at_once: trials that run together; 0 leaves it to the resources, which on a cluster may grow.
        say: told when memory ran out.

    Raises:
        PlaceError: memory runs out with one trial at a time, or again and again.
    """
    deadline = time.monotonic() + settings.hours * 3600 if settings.hours else math.inf
    left = RESTARTS
    while True:
        search = StudySearch(
            study,
            space,
            settings.objectives,
            listeners,
            seed=settings.seed,
            sampler=settings.sampler,
            at_once=at_once,
            deadline=deadline,
            order=lambda: order_of(study, settings),
        )
        had = studies.finished(study)
        try:
            _run(trial, search, settings, settings.trials - had, folder)
        except RuntimeError as error:
            if not isinstance(error.__cause__, OutOfMemoryError):  # which Tune does not take for a trial's own end
                raise
            if not left or search.running <= 1:
                raise PlaceError(
                    "Memory ran out, and Ray killed a trial for it. Nothing finished is lost: free some memory, or "
                    "take a machine with more, and give the same command."
                ) from error
            left -= 1
            at_once = search.running // 2
            studies.requeue_interrupted(study)
            say(f"Memory ran out, and Ray killed trials for it. They go on, at most {at_once} at once.")
        else:
            if not search.asked_again:
                return
            if studies.finished(study) == had:  # the store, say, is away for good
                if not left:
                    return
                left -= 1


def _run(
    trial: Callable[[Mapping[str, Any]], None], search: StudySearch, settings: SweepConfig, wanted: int, folder: str
) -> None:
    if wanted <= 0:
        return
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
