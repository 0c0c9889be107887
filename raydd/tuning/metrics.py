"""Metrics of a sweep for Prometheus. Ray's exporter serves them next to the cluster's CPU, GPU and memory metrics.

`cluster/grafana.json` is a dashboard that shows them.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from optuna.trial import TrialState
from ray.util.metrics import Gauge

from raydd.cluster.trial_report import TrialReport
from raydd.tuning import study as studies
from raydd.tuning.slot_time import Stay, slot_seconds


class Metrics:
    """A listener of the searcher that keeps Ray's gauges up to date."""

    def __init__(
        self,
        sweep: str,
        done: Mapping[str, int],
        *,
        best: float | None,
        capacity: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the gauges to the trials of earlier commands.

        Args:
            sweep: name of the sweep, the label of all gauges.
            done: trials of earlier commands, by outcome.
            best: val r_mean of the best of these trials.
            capacity: returns how many trials may run at once.
            clock: returns the time in seconds.
        """
        self._done, self._best, self._capacity, self._clock = Counter(done), best, capacity, clock
        self._running: dict[int, Stay] = {}  # by number, the trials that hold a slot; they began to at `begin`
        self._ended = list[Stay]()
        self._labels = {"sweep": sweep}
        self._trials = Gauge("raydd_trials", "Trials by outcome, and those that hold a slot.", ("sweep", "state"))
        self._busy = Gauge("raydd_busy_share", "Share of the slots that run a trial, 0 to 1.", ("sweep",))
        self._score = Gauge("raydd_best_r_mean", "Best val r_mean of a complete trial, in percent.", ("sweep",))
        self._cost = Gauge("raydd_slot_seconds", "Seconds for which this command's trials held slots.", ("sweep",))
        self._update_gauges()

    def started(self, number: int, settings: Mapping[str, Any]) -> None:
        """Count nothing: the trial may wait for a machine."""

    def began(self, number: int, slot: str) -> None:
        """Count one more running trial, or the same one in another slot."""
        self._leave_slot(number)
        self._running[number] = Stay(slot, self._clock(), self._clock())
        self._update_gauges()

    def reported(self, number: int, report: TrialReport) -> None:
        """Nothing is counted before a trial's end."""

    def ended(self, number: int, state: TrialState, report: TrialReport, reason: str) -> None:
        """Count a trial that ended."""
        self._leave_slot(number)
        if not report.again:
            self._done[studies.outcome(state, reason)] += 1
        if state == TrialState.COMPLETE:
            self._best = report.r_mean if self._best is None else max(self._best, report.r_mean)
        self._update_gauges()

    def _leave_slot(self, number: int) -> None:
        if stay := self._running.pop(number, None):
            self._ended.append(replace(stay, end=self._clock()))

    def _update_gauges(self) -> None:
        for state in (*studies.OUTCOMES, "running"):
            count = len(self._running) if state == "running" else self._done[state]
            self._trials.set(count, {**self._labels, "state": state})
        self._busy.set(min(1.0, len(self._running) / max(1, self._capacity())), self._labels)
        now = self._clock()
        running = [replace(stay, end=now) for stay in self._running.values()]
        self._cost.set(slot_seconds([*self._ended, *running]), self._labels)
        if self._best is not None:
            self._score.set(self._best, self._labels)
