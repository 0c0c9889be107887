"""What Ray Tune runs of a trial that steps in a slot: an errand, which hands it to the slot and passes on its reports.

Tune starts, stops and starts again each trial as ever. The process of an errand computes nothing, so it is small: it
imports no torch.
"""

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError

_AGAIN_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # for a slot that has not started: others may have room meanwhile
ERRAND_BYTES = 250_000_000  # of memory that the process takes


def run_errand(trial: Mapping[str, Any], desk: Any) -> None:
    """Run one trial in a slot, and report what the slot reports.

    Args:
        trial: as of `trainables.distill.trial_reports`.
        desk: handle of the actor of `trainables.slot.Desk`.
    """
    try:
        with _seated(dict(trial), desk) as (slot, errand):
            while True:
                report, broken = ray.get(slot.next.remote(errand))
                tune.report(report)
                if broken:
                    raise RuntimeError(report["failure"])  # Tune starts the trial again, in a slot started afresh
                if report["record"] or report["failure"]:
                    return
    except (RayActorError, RayTaskError) as error:  # the slot's machine was lost, or the trial's settings do not fit
        from raydd.cluster.connect import cause_of
        from raydd.cluster.failures import failure_of

        tune.report(failure_of(cause_of(error)).as_result())


@contextlib.contextmanager
def _seated(trial: dict[str, Any], desk: Any) -> Iterator[tuple[Any, str]]:
    """A slot that has begun the trial, and the errand on which it did.

    A slot whose machine is still to come, or to come back, may never be there: the desk is asked again now and then.
    """
    while True:
        errand = uuid.uuid4().hex  # a trial that is started again goes on another errand
        slot: Any = ray.get(desk.seat.remote(errand, trial))
        try:
            if _begun(slot, errand, trial):
                yield slot, errand
                return
        finally:
            slot.stop.remote(errand)
            desk.leave.remote(errand)


def _begun(slot: Any, errand: str, trial: dict[str, Any]) -> bool:
    """Whether the slot has taken the trial in before the desk is to be asked again."""
    end = time.monotonic() + PATIENCE_SECONDS
    while (left := end - time.monotonic()) > 0:
        try:
            ray.get(slot.begin.remote(errand, trial), timeout=left)
            return True
        except ActorUnavailableError:  # Ray starts it again on another machine
            time.sleep(_AGAIN_SECONDS)
        except GetTimeoutError:
            return False
    return False
