"""What Ray Tune runs of a trial that steps in a slot: an errand, which hands it to the slot and passes on its reports.

Tune starts, stops and starts again each trial as ever. The process of an errand computes nothing, so it is small: it
imports no torch.
"""

import time
import uuid
from collections.abc import Mapping
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorUnavailableError, RayActorError

_AGAIN_SECONDS = 1.0
ERRAND_BYTES = 250_000_000  # of memory that the process takes


def run_errand(trial: Mapping[str, Any], desk: Any) -> None:
    """Run one trial in a slot, and report what the slot reports.

    Args:
        trial: as of `trainables.distill.distill_trial`.
        desk: handle of the actor of `trainables.slot.Desk`.
    """
    errand = uuid.uuid4().hex  # a trial that is started again goes on another errand
    try:
        slot: Any = ray.get(desk.seat.remote(errand, dict(trial)))
        try:
            _begin(slot, errand, dict(trial))
            while True:
                report, broken = ray.get(slot.next.remote(errand))
                tune.report(report)
                if broken:
                    raise RuntimeError(report["failure"])  # Tune starts the trial again, in a slot started afresh
                if report["record"] or report["failure"]:
                    return
        finally:
            slot.stop.remote(errand)
            desk.leave.remote(errand)
    except RayActorError as error:  # the slot's machine was lost
        from raydd.cluster.failures import failure_of

        tune.report(failure_of(error).as_result())


def _begin(slot: Any, errand: str, trial: dict[str, Any]) -> None:
    """Hand the trial to the slot, waiting while Ray starts the slot again on another machine."""
    while True:
        try:
            ray.get(slot.begin.remote(errand, trial))
            return
        except ActorUnavailableError:
            time.sleep(_AGAIN_SECONDS)
