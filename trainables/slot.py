"""Slots: processes with a device each, in which many trials of a sweep step together.

Trials come and go by their errands (`trainables/errand.py`). A slot makes room for its next trial as soon as one ends,
as servers of language models batch requests, and does not know why a trial is stopped. Where the GPU's memory does not
suffice, half of the trials wait, and go on as others end.
"""

import contextlib
import logging
import math
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError

from raydd.cluster.claims import WAIT_SECONDS, joined_work, share_features
from raydd.cluster.connect import slots_to_come
from raydd.cluster.failures import breaks_process, failure_of
from raydd.cluster.graceful_exit import GRACE_SECONDS, exit_waits, heed_notice
from raydd.cluster.trial_report import TrialReport
from raydd.config import Config
from raydd.distill.engine import DistillPoint
from raydd.errors import RayddError
from raydd.progress import Leave
from raydd.protocols import Listings, Workbench, changed, trial_settings
from raydd.settings import with_settings
from raydd.stages.oom_retry import empty_cache, too_large, wanted
from raydd.stages.population import Together, group_of
from trainables.distill import Judged

log = logging.getLogger(__name__)
LAST_WORDS_SECONDS = 1.0  # that a slot whose GPU is of no more use has to tell its trials so
SILENT_SECONDS = 30.0  # after which a slot that does not answer is one whose machine is still to come, or to come back
_UNKNOWN = TrialReport(failure="The trial's slot was started again, and knows nothing of it.", again=True)


@dataclass
class _Errand:
    trial: Mapping[str, Any]
    judged: Judged | None = None
    told: "queue.SimpleQueue[tuple[TrialReport, bool]]" = field(default_factory=queue.SimpleQueue)


class Slot:
    """One slot; its methods are called by the trials' errands, each from a thread, while one thread computes."""

    def __init__(self, base: Config, who: str, listings: Listings, claims: Any) -> None:
        """Wait for trials.

        Args:
            base: what all trials of the sweep share.
            who: the slot's name, in words for the terminal.
            listings: the data sets that the driver has read.
            claims: handle of the actor of `raydd.cluster.claims`.
        """
        self._base, self._who, self._listings, self._claims = base, who, listings, claims
        self._errands: dict[str, _Errand] = {}
        self._waiting, self._room = deque[str](), math.inf  # errands to begin, and how many have room to step at once
        self._ordering, self._stopped = threading.Lock(), set[str]()
        self._closing, self._closed = threading.Event(), threading.Event()
        self._orders: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()  # an errand, and whether it begins
        heed_notice()
        threading.Thread(target=self._run, name="slot", daemon=True).start()

    def begin(self, errand: str, trial: Mapping[str, Any]) -> None:
        """Take a trial in, unless it was stopped before; it begins when those that step are looked at next."""
        with self._ordering:
            if errand not in self._stopped:
                self._errands[errand] = _Errand(trial)
                self._orders.put((errand, True))

    def next(self, errand: str) -> tuple[dict[str, Any], bool]:
        """The next report of a trial, waited for, and whether the slot's process is of no more use."""
        own = self._errands.get(errand)
        report, broken = own.told.get() if own else (_UNKNOWN, False)
        return report.as_result(), broken

    def stop(self, errand: str) -> None:
        """Let a trial go on no further; its checkpoint stays. Nothing for one that has ended."""
        with self._ordering:
            if errand not in self._errands:  # of calls that waited together for the slot's start any may be the first
                self._stopped.add(errand)
            self._orders.put((errand, False))

    def close(self) -> None:
        """Keep the state of all trials and take no more steps; returns when that is done."""
        self._closing.set()
        self._closed.wait(GRACE_SECONDS)

    @exit_waits()
    def _run(self) -> None:
        try:
            with joined_work(self._base, self._who, self._listings, self._claims) as (work, claimant):
                self._serve(work, lambda own: share_features(own, claimant))
        except Exception as error:  # every trial's result, whoever's fault it is
            for errand in list(self._errands.values()):
                errand.told.put((failure_of(error), True))
            threading.Timer(LAST_WORDS_SECONDS, os._exit, [1]).start()  # Ray starts it again, elsewhere if need be
        finally:
            self._closed.set()

    def _serve(self, work: Workbench[Any], prepare: Callable[[Workbench[Any]], None]) -> None:
        """Take trials in and let them step, until the slot is closed or its process told to end; all are kept then."""
        together = Together()
        with contextlib.suppress(Leave):
            while not self._closing.is_set():
                for errand, begins in self._ordered(wait=not together.names and not self._waiting):
                    if begins:
                        self._waiting.append(errand)
                    else:
                        with _failing_alone(self._errands.get(errand)):
                            together.stop(errand)
                        self._forget(errand)
                if lacked := self._advance(together, work, prepare):
                    self._make_room(*lacked, work.device)
                    together = Together()  # trials may stand in the midst of a step: they go on from their checkpoints
                    empty_cache(work.device)
        together.keep()

    def _advance(
        self, together: Together, work: Workbench[Any], prepare: Callable[[Workbench[Any]], None]
    ) -> tuple[set[str], str] | None:
        """Begin trials, and let all step until there is something to tell; or those that lack memory, and how much."""
        in_hand = ""
        try:
            while self._waiting and len(together.names) < self._room:
                in_hand = self._waiting.popleft()
                self._begin(together, in_hand, work, prepare)
            in_hand = ""
            work.progress("trials side by side", len(together.names), len(together.names))
            for errand, point in together.look():
                in_hand = errand
                self._tell(errand, point)
                in_hand = ""
        except torch.OutOfMemoryError as error:
            return {*together.names, in_hand}, wanted(error)
        return None

    def _make_room(self, tried: Collection[str], said: str, device: str) -> None:
        """Let half as many trials step at once; one that has no room by itself ends with the reason."""
        tried = [errand for errand in list(self._errands) if errand in tried]  # others may come meanwhile
        if len(tried) == 1:
            self._errands[tried[0]].told.put((failure_of(too_large("with one trial", said, device)), False))
            return
        self._room = max(1, len(tried) // 2)
        log.warning("Out of GPU memory with %d trials at once (%s). Going on with %d.", len(tried), said, self._room)
        self._waiting.extendleft(reversed(tried))

    def _forget(self, errand: str) -> None:
        if own := self._errands.pop(errand, None):
            own.told.put((_UNKNOWN, False))  # to nobody, or to the thread that waits for an errand that is gone
        if errand in self._waiting:
            self._waiting.remove(errand)

    def _ordered(self, *, wait: bool) -> Iterator[tuple[str, bool]]:
        """What was ordered meanwhile; without work to do it is waited for, a while."""
        with contextlib.suppress(queue.Empty):
            if wait:
                yield self._orders.get(timeout=WAIT_SECONDS)
            while True:
                yield self._orders.get_nowait()

    def _begin(
        self, together: Together, errand: str, root: Workbench[Any], prepare: Callable[[Workbench[Any]], None]
    ) -> None:
        own = self._errands[errand]
        with _failing_alone(own):
            work = changed(root, {**own.trial["settings"], **trial_settings(self._base)})
            prepare(work)
            own.judged = own.judged or Judged(work, own.trial["passed"])  # which knows what it has told
            if point := together.begin(errand, work, every=own.judged.every):
                self._tell(errand, point)

    def _tell(self, errand: str, point: DistillPoint | RayddError) -> None:
        own = self._errands[errand]
        assert own.judged is not None
        with _failing_alone(own):
            report = failure_of(point) if isinstance(point, RayddError) else own.judged.report(point)
            if report is not None:
                own.told.put((report.from_here(own.judged.device), False))


@contextlib.contextmanager
def _failing_alone(own: _Errand | None) -> Iterator[None]:
    """Tell what a trial raises, of its students for example, as its own result: the others go on."""
    try:
        yield
    except Exception as error:
        if breaks_process(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        if own:
            own.told.put((failure_of(error), False))


@dataclass(frozen=True)
class _Seat:
    trial: int
    slot: int
    group: Hashable


class Desk:
    """Says in which slot a trial is to run, and starts the slots; an actor of one thread."""

    def __init__(self, base: Config, listings: Listings, claims: Any) -> None:
        """No slot is started yet.

        Args:
            base: what all trials share; `sweep.together` trials are in a slot, which has `sweep.cpus` and `sweep.gpus`.
            listings: as of `Slot`, and so are `claims`.
        """
        self._base, self._for_slots = base, (listings, claims)
        self._slots: list[Any] = []
        self._heard: dict[int, tuple[float, Any]] = {}  # of each slot: when it answered last, and what it is asked now
        self._seated: dict[str, _Seat] = {}

    def seat(self, errand: str, trial: Mapping[str, Any]) -> Any:
        """The handle of the slot for a trial: a new one, or one where its like are, or else the emptiest.

        All resources are taken before slots are filled, and slots that answer are filled before those that do not. A
        trial that was lost on the way, its errand's machine being gone, is stopped where it sat when it comes again.
        """
        for lost, seat in list(self._seated.items()):
            if seat.trial == trial["number"]:
                self._slots[seat.slot].stop.remote(lost)
                self.leave(lost)
        group = group_of(with_settings(self._base, {**trial["settings"], **trial_settings(self._base)}))
        sweep, seated = self._base.sweep, list(self._seated.values())
        if len(self._slots) < max(1, slots_to_come(sweep.cpus, sweep.gpu_share)):
            self._slots.append(self._started(len(self._slots)))
            slot = len(self._slots) - 1
        else:
            taken, alike = Counter(seat.slot for seat in seated), {seat.slot for seat in seated if seat.group == group}
            slot = min(
                range(len(self._slots)),
                key=lambda slot: (
                    taken[slot] >= sweep.together,
                    self._is_silent(slot),
                    slot not in alike,
                    taken[slot],
                ),
            )
        self._seated[errand] = _Seat(trial["number"], slot, group)
        return self._slots[slot]

    def leave(self, errand: str) -> None:
        """Give a trial's seat back."""
        self._seated.pop(errand, None)

    def close(self) -> None:
        """Have all slots keep what they have; they end when the desk does."""
        there = [slot for number, slot in enumerate(self._slots) if not self._is_silent(number)]
        if closing := [slot.close.remote() for slot in there]:
            ray.wait(closing, num_returns=len(closing), timeout=GRACE_SECONDS)

    def _is_silent(self, slot: int) -> bool:
        now = time.monotonic()
        heard, question = self._heard.get(slot) or (now, self._slots[slot].__ray_ready__.remote())
        if ray.wait([question], timeout=0)[0]:
            with contextlib.suppress(RayActorError):  # it is being started again
                ray.get(question)
                heard = now
            question = self._slots[slot].__ray_ready__.remote()
        self._heard[slot] = (heard, question)
        return now - heard > SILENT_SECONDS

    def _started(self, number: int) -> Any:
        sweep = self._base.sweep
        # Each trial has one call that waits for its next report, and others that begin and stop it.
        kind: Any = ray.remote(Slot)
        options = kind.options(
            num_cpus=sweep.cpus, num_gpus=sweep.gpu_share, max_concurrency=3 * sweep.together, max_restarts=-1
        )
        return options.remote(self._base, f"slot {number}", *self._for_slots)
