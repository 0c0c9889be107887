"""Run the trials of a study with Ray Tune."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter

from raydd.cluster.connect import heed_interrupt
from raydd.cluster.trial_report import TrialReport
from raydd.config import SweepConfig
from raydd.errors import PlaceError, TrialsError
from raydd.tuning import study as studies
from raydd.tuning.cheap_starts import CostOf
from raydd.tuning.pruning import Pruning
from raydd.tuning.searcher import Listener, StudySearch
from raydd.tuning.steering import order_of
from search_spaces import Space

RESTARTS = 2  # of a trial whose process or node died, and of all after memory ran out; the store has what is done
LOOK_SECONDS = 10.0  # between two looks at how many trials there is room for

_TOLD_TO_LEAVE = "The process receives a SIGTERM"  # Ray's words; whoever kills for memory sends SIGKILL

# Tune would write the driver's keys into Ray's logs and onto the command line of each trial; every node has its own.
class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}


def run_trials(
    trial: Callable[[Mapping[str, Any]], None],
    study: optuna.Study,
    space: Space,
    settings: SweepConfig,
    listeners: Sequence[Listener],
    *,
    folder: str,
    room: Callable[[], int],
    cost_of: CostOf | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run trials until the study has `settings.trials` finished ones or the hours are over; returns when all ended.

    Trials that Ray kills because a machine's memory runs out are run again, half as many at once.

    Args:
        trial: the trainable, with its resources; it reports `TrialReport`s.
        study: where trials come from.
        space: suggests settings.
        settings: number and pruner of the trials.
        listeners: told of every trial.
        folder: where Tune writes, a folder or a bucket that every node reaches.
        room: trials that may run together, asked again now and then, since a cluster may get more nodes.
        cost_of: what a trial of some settings costs to its end, for a sampler that weighs it.
        say: told when memory ran out.

    Raises:
        PlaceError: memory runs out with one trial at a time, or again and again.
        TrialsError: `settings.max_failures` trials in a row failed for the same reason.
    """
    if studies.finished(study) >= settings.trials:
        return
    deadline = time.monotonic() + settings.hours * 3600 if settings.hours else math.inf
    left, most = RESTARTS, math.inf
    while True:
        search = StudySearch(
            study,
            space,
            settings.objectives,
            listeners,
            wanted=settings.trials,
            max_failures=settings.max_failures,
            seed=settings.seed,
            deadline=deadline,
            sampler=settings.sampler,
            cost_of=cost_of,
            order=lambda: order_of(study, settings),
        )
        try:
            stopping = _Stopping(search, Pruning(study, settings))
            _run(trial, search, stopping, settings, lambda most=most: int(min(most, room())), folder)
            search.close()
        except RuntimeError as error:
            if not isinstance(error.__cause__, OutOfMemoryError):  # which Tune does not take for a trial's own end
                raise
            if not left or search.running <= 1:
                raise PlaceError(
                    "Memory ran out, and Ray killed a trial for it. Nothing finished is lost: free some memory, or "
                    "take a machine with more, and give the same command."
                ) from error
            left, most = left - 1, search.running // 2
            search.close()
            studies.requeue_interrupted(study)
            say(f"Memory ran out, and Ray killed trials for it. They go on, at most {most} at once.")
        else:
            if search.gave_up:
                raise TrialsError(
                    f"{settings.max_failures} trials in a row failed for the same reason ({search.gave_up}), so the "
                    "sweep stopped. Put it right and give the same command: failed trials do not count, and "
                    "--retry-failed runs their settings again."
                )
            return


def _run(
    trial: Callable[[Mapping[str, Any]], None],
    search: StudySearch,
    scheduler: TrialScheduler,
    settings: SweepConfig,
    room: Callable[[], int],
    folder: str,
) -> None:
    # Tune lets as many trials wait for resources as the limit says, by which a cluster that grows knows what is
    # wanted; and as many processes are started as there are trials, each on resources of its own.
    limiter = ConcurrencyLimiter(search, max_concurrent=max(1, room()))
    tune.Tuner(
        trial,
        tune_config=tune.TuneConfig(
            search_alg=limiter,
            scheduler=scheduler,
            num_samples=-1,  # the searcher knows when there are enough
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=settings.name,
            storage_path=folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the store has them
            callbacks=[_Machines(limiter, room)],
        ),
    ).fit()


class _Stopping(FIFOScheduler):
    """Stops the trials that the study says are weak; it knows nothing by itself, so any driver's does the same."""

    def __init__(self, search: StudySearch, pruning: Pruning) -> None:
        super().__init__()
        self._search, self._pruning = search, pruning

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        weak = self._pruning.stops(self._search.trial(trial.trial_id), TrialReport.of(result))
        return TrialScheduler.STOP if weak else TrialScheduler.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps a copy among its notes, which are never read back."""
        return {}


class _Machines(tune.Callback):
    """Machines come and go: as many trials run together as there is room for, and one that goes fails no trial."""

    def __init__(self, limiter: ConcurrencyLimiter, room: Callable[[], int]) -> None:
        self._limiter, self._room, self._looked = limiter, room, time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune's notes are never read back, and what knows the room knows the study's password too."""
        return {}

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **__: Any) -> None:  # noqa: ARG002
        """Take back the failure that Tune counted, if the trial was told to leave its machine, as by a spot notice."""
        # Tune's own notes of the trial's failures; the storage has them later.
        if _TOLD_TO_LEAVE in Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2]:
            trial.run_metadata.num_failures -= 1

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        heed_interrupt()
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._limiter.set_max_concurrency(max(1, self._room()))
            self._looked = time.monotonic()


def _name(trial: Any) -> str:
    return f"trial-{trial.config['number']}-{trial.trial_id}"
