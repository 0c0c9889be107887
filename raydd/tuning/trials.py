"""Runs the trials of a study with Ray Tune."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from ray import cloudpickle, tune
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter

from raydd.cluster.connect import heed_interrupt
from raydd.cluster.failures import failure_of
from raydd.cluster.trial_report import TrialReport
from raydd.config import SweepConfig
from raydd.errors import PlaceError, TrialsError
from raydd.tuning import study as studies
from raydd.tuning.cheap_starts import CostOf
from raydd.tuning.pruning import Pruning
from raydd.tuning.searcher import Listener, StudySearch
from raydd.tuning.steering import order_of
from search_spaces import Space

RESTARTS = 2  # of a trial whose process or node died, and of all trials after memory ran out; the store keeps the work
LOOK_SECONDS = 10.0  # between two checks for how many trials there is room

_SIGTERM_MESSAGE = "The process receives a SIGTERM"  # Ray's message; processes killed for memory get SIGKILL instead

# Tune would write the driver's keys to Ray's logs and the command line of each trial; every node has keys of its own.
class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}


def run_trials(
    trial: Callable[[Mapping[str, Any]], None],
    study: optuna.Study,
    space: Space,
    settings: SweepConfig,
    listeners: Sequence[Listener],
    *,
    folder: str,
    capacity: Callable[[], int],
    cost_of: CostOf | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run trials until the study has `settings.trials` finished ones or the time limit is reached.

    Returns when all started trials have ended. If Ray kills trials because a machine's memory ran out, they are run
    again, half as many at once.

    Args:
        trial: the trainable, with its resources; it reports `TrialReport`s.
        study: the study that trials come from.
        space: suggests settings.
        settings: of the sweep, with `gpus` and `together` resolved.
        listeners: notified of every trial.
        folder: where Tune writes: a folder or a bucket that every node can reach.
        capacity: returns how many trials may run at once; called repeatedly, since a cluster may get more nodes.
        cost_of: predicts the cost of a complete trial with the given settings, for a sampler that weighs cost.
        say: called with a message if memory ran out.

    Raises:
        PlaceError: memory runs out with one trial at a time, or again and again.
        TrialsError: `settings.max_failures` trials in a row failed for the same reason.
    """
    if studies.finished(study) >= settings.trials:
        return
    deadline = time.monotonic() + settings.hours * 3600 if settings.hours else math.inf
    most_at_once = math.inf

    def room() -> int:
        return int(min(most_at_once, capacity()))

    for restarts_left in reversed(range(RESTARTS + 1)):
        search = StudySearch(
            study,
            space,
            settings,
            listeners,
            cost_of=cost_of,
            deadline=deadline,
            order=lambda: order_of(study, settings),
        )
        try:
            _run_tuner(trial, search, Pruning(study, settings), settings, room, folder)
        except RuntimeError as error:
            most_at_once = _fewer_at_once(error, search.running, restarts_left)
            search.close()
            search.run_again(failure_of(PlaceError("memory ran out")))
            say(f"Memory ran out, so Ray killed trials. They are run again, at most {most_at_once} at once.")
        else:
            search.close()
            _require_not_given_up(search, settings.max_failures)
            return


def _fewer_at_once(error: RuntimeError, running: int, restarts_left: int) -> int:
    """Return how many trials may run at once after Ray killed some because memory ran out.

    Raises:
        RuntimeError: the given error, if it says something else.
        PlaceError: fewer trials cannot run, or memory ran out again and again.
    """
    if not isinstance(error.__cause__, OutOfMemoryError):  # Tune raises it instead of failing the trial
        raise error
    if not restarts_left or running <= 1:
        raise PlaceError(
            "Memory ran out, so Ray killed a trial. Finished work is kept: free some memory, or use a machine with "
            "more, and give the same command again."
        ) from error
    return running // 2


def _require_not_given_up(search: StudySearch, max_failures: int) -> None:
    if search.gave_up:
        raise TrialsError(
            f"{max_failures} trials in a row failed for the same reason ({search.gave_up}), so the sweep stopped. Fix "
            "the cause and give the same command again: failed trials do not count, and --retry-failed runs their "
            "settings again."
        )


def _run_tuner(
    trial: Callable[[Mapping[str, Any]], None],
    search: StudySearch,
    pruning: Pruning,
    settings: SweepConfig,
    capacity: Callable[[], int],
    folder: str,
) -> None:
    # Tune lets as many trials wait for resources as the limit allows, so that a growing cluster sees what is wanted.
    # It starts one process for each trial, with its own resources.
    limiter = ConcurrencyLimiter(search, max_concurrent=max(1, capacity()))
    tune.Tuner(
        trial,
        tune_config=tune.TuneConfig(
            search_alg=limiter,
            scheduler=_StoppingScheduler(search, pruning),
            num_samples=-1,  # the searcher decides when there are enough
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=settings.name,
            storage_path=folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # checkpoints are in the store
            callbacks=[_MachineWatcher(search, limiter, capacity, shares_slots=settings.together > 1)],
        ),
    ).fit()


class _StoppingScheduler(FIFOScheduler):
    """Stops weak trials. It decides only from the study, so the scheduler of any driver makes the same decisions."""

    def __init__(self, search: StudySearch, pruning: Pruning) -> None:
        super().__init__()
        self._search, self._pruning = search, pruning

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        weak = self._pruning.stops(self._search.trial(trial.trial_id), TrialReport.of(result))
        return TrialScheduler.STOP if weak else TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:  # noqa: ARG002
        """Tell the searcher whether the trial has lost its process or machine, which Tune itself does not tell it."""
        self._search.lost(trial.trial_id, trial.run_metadata.num_failures if _lost_process(trial) else 0)

    def __getstate__(self) -> dict[str, Any]:
        """Return no state: Tune saves a copy, which is never read back."""
        return {}


class _MachineWatcher(tune.Callback):
    """Adapts to machines that come and go: keeps as many trials running as there is room for.

    A trial that waits for a machine holds no slot. A machine that leaves does not count as a failure of its trials.
    """

    def __init__(
        self, search: StudySearch, limiter: ConcurrencyLimiter, capacity: Callable[[], int], *, shares_slots: bool
    ) -> None:
        self._search, self._limiter, self._capacity, self._shares_slots = search, limiter, capacity, shares_slots
        self._last_look = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Return no state: Tune never reads it back, and `capacity` holds the study's password."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **__: Any) -> None:  # noqa: ARG002
        """Let the trial's time begin, unless its process is an errand, which may wait for a slot and reports it."""
        if not self._shares_slots:
            self._search.began(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **__: Any) -> None:  # noqa: ARG002
        """Uncount a failure if the trial was told to leave its machine, for example by a spot notice."""
        # Tune's local file of the trial's failures; its storage gets the file only later.
        if _SIGTERM_MESSAGE in Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2]:
            trial.run_metadata.num_failures -= 1

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        heed_interrupt()
        if time.monotonic() - self._last_look > LOOK_SECONDS:
            self._limiter.set_max_concurrency(max(1, self._capacity()))
            self._last_look = time.monotonic()


def _lost_process(trial: Any) -> bool:
    """Whether the last error of one of Tune's trials is that its process or machine was lost."""
    if not trial.pickled_error_file:  # Tune keeps only errors of tasks and actors
        return False
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return isinstance(error, RayActorError) and not error.actor_init_failed


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['number']}-{trial.trial_id}"
