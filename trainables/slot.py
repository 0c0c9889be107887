"""Slots: processes with one device each, in which many trials of a sweep step together.

Errands (`trainables/errand.py`) bring trials to a slot and take them away. A slot begins its next trial as soon as one
ends, as servers of language models batch requests. It does not know why a trial is stopped. If the GPU runs out of
memory, half of the trials wait, and continue as others end.
"""

import contextlib
import itertools
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

from raydd.cluster.claims import WAIT_SECONDS
from raydd.cluster.connect import slots_to_come
from raydd.cluster.failures import breaks_process, failure_of
from raydd.cluster.graceful_exit import GRACE_SECONDS, exit_waits, heed_notice
from raydd.cluster.sharing import Shared, joined_work, share_features
from raydd.cluster.trial_report import TrialReport
from raydd.config import Config
from raydd.distill.engine import DistillPoint
from raydd.errors import RayddError
from raydd.progress import Leave
from raydd.protocols import Workbench, changed, trial_settings
from raydd.settings import with_settings
from raydd.stages.oom_retry import empty_cache, out_of_memory_error, requested_memory
from raydd.stages.population import Together, group_of
from trainables.distill import TrialReporter

log = logging.getLogger(__name__)
LAST_WORDS_SECONDS = 1.0  # time for a slot to report to its trials that its process is broken
SILENT_SECONDS = 30.0  # after this time without an answer, a slot's machine counts as not started yet, or as lost
_UNKNOWN = TrialReport(failure="The trial's slot was restarted and does not know the trial.", again=True)
_TAKEN_BACK = TrialReport(failure="The machine of the trial's slot was taken back.", again=True, notice=True)
FAREWELL_SECONDS = 3.0  # for a slot whose machine is taken back to tell this to its trials
IDLE_SECONDS = 120.0  # after this time without a trial, a slot ends, so that its machine may end too


@dataclass
class _Errand:
    trial: Mapping[str, Any]
    reporter: TrialReporter | None = None
    reports: "queue.SimpleQueue[tuple[TrialReport, bool]]" = field(default_factory=queue.SimpleQueue)


class Slot:
    """One slot. The trials' errands call its methods, each in its own thread, while one thread computes."""

    def __init__(self, base: Config, name: str, shared: Shared) -> None:
        """Wait for trials.

        Args:
            base: settings that all trials of the sweep share.
            name: the slot's name, for the terminal.
            shared: what the driver gave to all its workers.
        """
        self._base, self._name, self._shared = base, name, shared
        self._errands: dict[str, _Errand] = {}
        self._waiting = deque[str]()  # errands to begin
        self._max_running = math.inf  # errands that fit in memory at once
        self._order_lock, self._stopped = threading.Lock(), set[str]()
        self._closing, self._closed, self._taken_back = threading.Event(), threading.Event(), False
        self._orders: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()  # an errand, True: begin, False: stop
        heed_notice()
        threading.Thread(target=self._run, name="slot", daemon=True).start()

    def begin(self, errand: str, trial: Mapping[str, Any]) -> None:
        """Accept a trial; it begins when the running trials are next checked.

        Not if it was stopped before, or if the process is about to end. If it ends because its machine is taken back,
        this is the trial's next report.
        """
        with self._order_lock:
            if errand in self._stopped or (self._closed.is_set() and not self._taken_back):
                return
            self._errands[errand] = _Errand(trial)
            if self._taken_back:
                self._errands[errand].reports.put((_TAKEN_BACK, False))
            else:
                self._orders.put((errand, True))

    def next(self, errand: str) -> tuple[dict[str, Any], bool]:
        """Wait for the next report of a trial; return it, and whether the slot's process is broken."""
        entry = self._errands.get(errand)
        report, broken = entry.reports.get() if entry else (_UNKNOWN, False)
        return report.as_result(), broken

    def stop(self, errand: str) -> None:
        """Stop a trial; its checkpoint stays. Does nothing if the trial has ended."""
        with self._order_lock:
            if errand not in self._errands:  # calls that waited for the slot to start may arrive in any order
                self._stopped.add(errand)
            self._orders.put((errand, False))

    def close(self) -> None:
        """Take no more steps and save the state of all trials; returns when this is done."""
        self._closing.set()
        self._closed.wait(GRACE_SECONDS)

    @exit_waits()
    def _run(self) -> None:
        try:
            with joined_work(self._base, self._name, self._shared) as (work, claimant):
                self._serve(work, lambda trial_work: share_features(trial_work, claimant))
            if not self._closing.is_set():
                self._say_farewell()
        except Exception as error:  # becomes the result of every trial, regardless of which trial caused it
            for entry in list(self._errands.values()):
                entry.reports.put((failure_of(error), True))
            threading.Timer(LAST_WORDS_SECONDS, os._exit, [1]).start()  # Ray restarts the slot, elsewhere if needed
        finally:
            self._closed.set()

    def _say_farewell(self) -> None:
        """Tell all trials that the machine is taken back; their states are saved.

        Ray does not end a process while a call waits in `next`. A trial that does not wait there now, since it passes a
        report on, gets a little time to ask: from then on it would hear of a lost slot, which counts as a failure.
        """
        with self._order_lock:
            self._closed.set()
            self._taken_back = True
            for entry in self._errands.values():
                entry.reports.put((_TAKEN_BACK, False))
        deadline = time.monotonic() + FAREWELL_SECONDS
        while any(not entry.reports.empty() for entry in list(self._errands.values())):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)

    def _serve(self, work: Workbench[Any], prepare: Callable[[Workbench[Any]], None]) -> None:
        """Accept trials and let them step until the slot is closed or its process has to end; then save all states."""
        together = Together()
        with contextlib.suppress(Leave):
            while not self._closing.is_set():
                for errand, begins in self._receive_orders(wait=not together.names and not self._waiting):
                    if begins:
                        self._waiting.append(errand)
                    else:
                        with _failures_reported(self._errands.get(errand)):
                            together.stop(errand)
                        self._forget(errand)
                if oom := self._advance(together, work, prepare):
                    self._make_room(*oom, work.device)
                    together = Together()  # trials may be within a step, so they continue from their checkpoints
                    empty_cache(work.device)
        together.save_checkpoints()

    def _advance(
        self, together: Together, work: Workbench[Any], prepare: Callable[[Workbench[Any]], None]
    ) -> tuple[set[str], str] | None:
        """Begin trials, and let all step until there is something to report.

        Returns:
            None; on CUDA OOM, the trials that ran and how much memory was requested.
        """
        current = ""
        try:
            while self._waiting and len(together.names) < self._max_running:
                current = self._waiting.popleft()
                self._begin(together, current, work, prepare)
            current = ""
            work.progress("trials side by side", len(together.names), len(together.names))
            for errand, point in together.take_steps():
                current = errand
                self._queue_report(errand, point)
                current = ""
        except torch.OutOfMemoryError as error:
            return {*together.names, current}, requested_memory(error)
        return None

    def _make_room(self, tried: Collection[str], requested: str, device: str) -> None:
        """Let half as many trials step at once; a trial that does not fit on its own fails with the memory figures."""
        tried = [errand for errand in list(self._errands) if errand in tried]  # new trials may have arrived
        if len(tried) == 1:
            self._errands[tried[0]].reports.put(
                (failure_of(out_of_memory_error("with one trial", requested, device)), False)
            )
            return
        self._max_running = max(1, len(tried) // 2)
        log.warning(
            "Out of GPU memory with %d trials at once (%s). Continuing with %d.",
            len(tried),
            requested,
            self._max_running,
        )
        self._waiting.extendleft(reversed(tried))

    def _forget(self, errand: str) -> None:
        if entry := self._errands.pop(errand, None):
            entry.reports.put((_UNKNOWN, False))  # frees a thread that still waits for a report of this errand
        if errand in self._waiting:
            self._waiting.remove(errand)

    def _receive_orders(self, *, wait: bool) -> Iterator[tuple[str, bool]]:
        """Yield the orders that have arrived; with `wait`, wait some time for the first one."""
        with contextlib.suppress(queue.Empty):
            if wait:
                yield self._orders.get(timeout=WAIT_SECONDS)
            while True:
                yield self._orders.get_nowait()

    def _begin(
        self, together: Together, errand: str, root: Workbench[Any], prepare: Callable[[Workbench[Any]], None]
    ) -> None:
        entry = self._errands[errand]
        with _failures_reported(entry):
            work = changed(root, {**entry.trial["settings"], **trial_settings(self._base)})
            prepare(work)
            # An existing one knows what it has reported.
            entry.reporter = entry.reporter or TrialReporter(work, entry.trial["passed"])
            if point := together.begin(errand, work, every=entry.reporter.every):
                self._queue_report(errand, point)

    def _queue_report(self, errand: str, point: DistillPoint | RayddError) -> None:
        entry = self._errands[errand]
        assert entry.reporter is not None
        with _failures_reported(entry):
            report = failure_of(point) if isinstance(point, RayddError) else entry.reporter.report(point)
            if report is not None:
                entry.reports.put((report.from_here(entry.reporter.device), False))


@contextlib.contextmanager
def _failures_reported(entry: _Errand | None) -> Iterator[None]:
    """Report an error of a trial, for example of its students, as the result of this trial: the others continue."""
    try:
        yield
    except Exception as error:
        if breaks_process(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        if entry:
            entry.reports.put((failure_of(error), False))


@dataclass(frozen=True)
class _Seat:
    trial: int
    slot: int
    group: Hashable


class Desk:
    """Chooses the slot for each trial, starts the slots, and ends idle ones. It is an actor with one thread."""

    def __init__(self, base: Config, shared: Shared, held: Collection[str] = ()) -> None:
        """No slot is started yet.

        Args:
            base: settings that all trials share; a slot has `sweep.cpus` and `sweep.gpus` and runs `sweep.together`
                trials.
            shared: what the driver gave to all its workers.
            held: machines whose GPUs no slot gets, see `raydd.cluster.gpus.held`.
        """
        self._base, self._shared, self._held = base, shared, held
        self._slots: dict[int, Any] = {}  # by number
        self._empty_since: dict[int, float] = {}  # by the number of a slot that `end_idle` found empty
        self._last_answers: dict[
            int, tuple[float, Any]
        ] = {}  # for each slot: time of its last answer, and the open question
        self._seats: dict[str, _Seat] = {}

    def seat(self, errand: str, trial: Mapping[str, Any]) -> Any:
        """Return the handle of the slot for a trial: a new slot, else one with similar trials, else the emptiest one.

        Slots are started on all resources before they are filled, and slots that answer are filled before silent ones.
        If a trial comes again because its errand's machine was lost, it is first stopped in its old slot.
        """
        for old_errand, seat in list(self._seats.items()):
            if seat.trial == trial["number"]:
                self._slots[seat.slot].stop.remote(old_errand)
                self.leave(old_errand)
        group = group_of(with_settings(self._base, {**trial["settings"], **trial_settings(self._base)}))
        sweep, seated = self._base.sweep, list(self._seats.values())
        if len(self._slots) < max(1, slots_to_come(sweep.cpus, sweep.gpu_share, self._held)):
            slot = next(number for number in itertools.count() if number not in self._slots)
            self._slots[slot] = self._start_slot(slot)
        else:
            trial_counts = Counter(seat.slot for seat in seated)
            similar_slots = {seat.slot for seat in seated if seat.group == group}
            slot = min(
                self._slots,
                key=lambda slot: (
                    trial_counts[slot] >= sweep.together,
                    self._is_silent(slot),
                    slot not in similar_slots,
                    trial_counts[slot],
                ),
            )
        self._seats[errand] = _Seat(trial["number"], slot, group)
        self._empty_since.pop(slot, None)
        return self._slots[slot]

    def leave(self, errand: str) -> None:
        """Free a trial's seat."""
        self._seats.pop(errand, None)

    def end_idle(self) -> None:
        """End the slots that have been empty for `IDLE_SECONDS`, so that their machines may end. Called repeatedly.

        Trials that come later get new slots.
        """
        now, seated = time.monotonic(), {seat.slot for seat in self._seats.values()}
        for number in self._slots.keys() - seated:
            if now - self._empty_since.setdefault(number, now) >= IDLE_SECONDS:
                ray.kill(self._slots.pop(number))
                del self._empty_since[number]
                self._last_answers.pop(number, None)

    def close(self) -> None:
        """Let all slots save the state of their trials; the slots end with the desk."""
        answering_slots = [slot for number, slot in self._slots.items() if not self._is_silent(number)]
        if closing := [slot.close.remote() for slot in answering_slots]:
            ray.wait(closing, num_returns=len(closing), timeout=GRACE_SECONDS)

    def _is_silent(self, slot: int) -> bool:
        now = time.monotonic()
        last_answer, question = self._last_answers.get(slot) or (now, self._slots[slot].__ray_ready__.remote())
        if ray.wait([question], timeout=0)[0]:
            with contextlib.suppress(RayActorError):  # the slot is being restarted
                ray.get(question)
                last_answer = now
            question = self._slots[slot].__ray_ready__.remote()
        self._last_answers[slot] = (last_answer, question)
        return now - last_answer > SILENT_SECONDS

    def _start_slot(self, number: int) -> Any:
        sweep = self._base.sweep
        # Each trial has one call that waits for its next report, and further calls that begin and stop it.
        actor_class: Any = ray.remote(Slot)
        options = actor_class.options(
            num_cpus=sweep.cpus, num_gpus=sweep.gpu_share, max_concurrency=3 * sweep.together, max_restarts=-1
        )
        return options.remote(self._base, f"slot {number}", self._shared)
