"""Errands: for a trial that runs in a slot, Ray Tune runs an errand, which hands the trial to the slot and passes on
its reports.

Tune starts, stops and restarts each trial as usual. The process of an errand computes nothing, so it is small: it does
not import torch.
"""

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError

_RETRY_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # for a slot that has not started; after that, another slot may have room
ERRAND_BYTES = 250_000_000  # memory that the process needs


def run_errand(trial: Mapping[str, Any], desk: Any) -> None:
    """Run one trial in a slot, and report what the slot reports.

    The first report, once the slot has accepted the trial, has only the slot's id.

    Args:
        trial: as for `trainables.distill.trial_reports`.
        desk: handle of the actor of `trainables.slot.Desk`.
    """
    try:
        with _slot_for_trial(dict(trial), desk) as (slot, errand):
            slot_id = {"slot": slot._actor_id.hex()}
            tune.report(slot_id)
            while True:
                report, broken = ray.get(slot.next.remote(errand))
                tune.report({**report, **slot_id})
                if broken:
                    raise RuntimeError(report["failure"])  # Tune restarts the trial, in a restarted slot
                if report["record"] or report["failure"]:
                    return
    except (RayActorError, RayTaskError) as error:  # the slot's machine was lost, or the trial's settings are invalid
        from raydd.cluster.connect import cause_of
        from raydd.cluster.failures import failure_of

        tune.report(failure_of(cause_of(error)).as_result())


@contextlib.contextmanager
def _slot_for_trial(trial: dict[str, Any], desk: Any) -> Iterator[tuple[Any, str]]:
    """Yield a slot that has begun the trial, and the name of the errand under which it did.

    The machine of a slot may not have started yet, or may be lost, and may never come. Therefore the desk is asked for
    a slot again from time to time.
    """
    while True:
        errand = uuid.uuid4().hex  # a restarted trial gets a new errand
        slot: Any = ray.get(desk.seat.remote(errand, trial))
        try:
            if _begin_trial(slot, errand, trial):
                yield slot, errand
                return
        finally:
            slot.stop.remote(errand)
            desk.leave.remote(errand)


def _begin_trial(slot: Any, errand: str, trial: dict[str, Any]) -> bool:
    """Whether the slot has accepted the trial within `PATIENCE_SECONDS`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (remaining_seconds := deadline - time.monotonic()) > 0:
        try:
            ray.get(slot.begin.remote(errand, trial), timeout=remaining_seconds)
            return True
        except ActorUnavailableError:  # Ray restarts the slot on another machine
            time.sleep(_RETRY_SECONDS)
        except GetTimeoutError:
            return False
    return False
