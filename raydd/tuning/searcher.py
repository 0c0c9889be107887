"""The searcher for Ray Tune: hands the study's trials to Tune, and saves their results in the study.

It replaces Ray's own OptunaSearch, which leaves a trial with NaN RUNNING for ever, records a trial that the scheduler
stopped as COMPLETE with its early value, and fails if the study is ahead of Tune's snapshot. Here each state means what
it says.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raydd.cluster.trial_report import TrialReport
from raydd.config import SweepConfig
from raydd.errors import PlaceError
from raydd.tuning import study as studies
from raydd.tuning.cheap_starts import CostOf, trial_with_params
from raydd.tuning.drawing_ahead import DrawingAhead, Drawn
from raydd.tuning.prices import amortised
from raydd.tuning.pruning import passed_rungs
from raydd.tuning.samplers import renew_sampler
from raydd.tuning.steering import Order
from search_spaces import Space

LOSSES = 5  # of a trial's process or machine; if more are lost, the trial may be what ends them
_LOST = "the trial's process or its machine was lost each time it was started (killed, or out of memory)"
_ENDED = "the trial's process ended with an error each time it was started; Ray's logs have the error"
_KEEP_SECONDS = 60.0  # between two updates, in the study, of how long a trial has held its slot


class Listener(Protocol):
    """Is notified of the progress of trials, such as the live table on the terminal, or MLflow."""

    def started(self, number: int, settings: Mapping[str, Any]) -> None:
        """A trial was handed to Tune; `number` is the one under which these settings were first tried."""
        ...

    def began(self, number: int, slot: str) -> None:
        """A trial holds its slot from now on; called again if it moves to another slot.

        `slot` is the id of a slot that trials share; empty if the trial has a process of its own.
        """
        ...

    def reported(self, number: int, report: TrialReport) -> None:
        """A running trial reported; `report.curve` has only the points since the last report."""
        ...

    def ended(self, number: int, state: TrialState, report: TrialReport, reason: str) -> None:
        """A trial is COMPLETE, PRUNED, or FAIL for a reason; `report` is its last report, with the whole curve."""
        ...


@dataclass
class _RunningTrial:
    trial: optuna.Trial
    started_before: int
    """How many trials were handed to Tune before this one."""
    start_time: float | None = None
    """When it began to hold its slot, by the search's clock; None while it waits for a machine."""
    slot: str = ""  # id of the slot that it shares with others
    failure: str = ""  # failure that it reported last; Tune may still restart it in a new process
    lost: int = 0  # how often it lost its process or machine, if Tune's last error of it is such a loss
    saved_seconds: float = 0.0  # seconds for which it has held its slot, as last saved in the study
    curve: list[dict[str, float]] = field(default_factory=list)

    def held_seconds(self, now: float) -> float:
        """Return for how long the trial has held its slot."""
        return 0.0 if self.start_time is None else now - self.start_time

    def new_in(self, report: TrialReport) -> TrialReport:
        """Add the new points of a report's curve to the whole curve, and return the report with the new points only."""
        last_step = self.curve[-1]["step"] if self.curve else -1
        new_points = [point for point in report.curve if point["step"] > last_step]  # a restarted trial repeats points
        self.curve += new_points
        return replace(report, curve=new_points)


class StudySearch(Searcher):
    """Asks the study for trials and saves how they ended."""

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        settings: SweepConfig,
        listeners: Sequence[Listener] = (),
        *,
        cost_of: CostOf | None = None,
        deadline: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        order: Callable[[], Order] = lambda: "go-on",
    ) -> None:
        """Create the searcher of a study.

        Args:
            study: the study that trials come from and are saved in.
            space: suggests the settings of a trial.
            settings: objectives, number of trials, most failures in a row, sampler and seed.
            listeners: notified of every trial.
            cost_of: predicts the cost of a complete trial with the given settings, for a sampler that weighs cost.
            deadline: time after which no more trials are started, in seconds of `clock`.
            clock: returns the time in seconds, for the deadline and for how long trials take.
            order: called before each trial; returns go-on, pause, or stop.
        """
        super().__init__()
        self._study, self._space, self._settings, self._listeners = study, space, settings, tuple(listeners)
        self._deadline, self._clock, self._order, self._cost_of = deadline, clock, order, cost_of
        self._failed_alike, self._last_failure = 0, ""
        self._finished = studies.finished(study)
        self._running: dict[str, _RunningTrial] = {}
        self._started = self._before_outage = self._at_once = 0
        self._drawn_trials = DrawingAhead(self._draw)

    @property
    def running(self) -> int:
        """How many trials were handed to Tune and have not ended."""
        return len(self._running)

    @property
    def gave_up(self) -> str:
        """The reason why too many trials in a row failed, so that no more are started; empty otherwise."""
        return self._last_failure if 0 < self._settings.max_failures <= self._failed_alike else ""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial: its number, its dotted settings, and the rungs that it passed before an interruption.

        None while the running trials are enough; FINISHED if no more trials are to start.
        """
        order = self._order()
        if (
            order == "stop"
            or self._clock() >= self._deadline
            or self.gave_up
            or self._finished >= self._settings.trials
        ):
            return Searcher.FINISHED
        if order == "pause" or self._finished + len(self._running) >= self._settings.trials:
            return None  # not FINISHED, since a running trial may fail
        self._at_once = max(self._at_once, len(self._running) + 1)
        trial, settings = self._drawn_trials.take()
        self._running[trial_id] = _RunningTrial(trial, self._started)
        self._started += 1
        if self._finished + len(self._running) < self._settings.trials:
            self._drawn_trials.begin()
        number = studies.identity(trial)
        for listener in self._listeners:
            listener.started(number, settings)
        passed = passed_rungs(self._study, number) if number != trial.number else []
        return {"number": number, "settings": settings, "passed": passed}

    def began(self, trial_id: str, slot: str = "") -> None:
        """Note that a trial holds its slot, as from then on it does also while it is restarted.

        Args:
            trial_id: Tune's id of the trial.
            slot: id of a slot that trials share; empty if the trial has a process of its own.
        """
        running = self._running[trial_id]
        if running.start_time is not None and running.slot == slot:
            return
        if running.start_time is None:
            running.start_time = self._clock()
            running.trial.set_user_attr(studies.BEGAN, time.time())
        if slot:
            running.slot = slot
            running.trial.set_user_attr(studies.SLOT, slot)
        for listener in self._listeners:
            listener.began(studies.identity(running.trial), slot)

    def lost(self, trial_id: str, times: int) -> None:
        """Note how often a trial has lost its process or machine; 0 if its last error is another one."""
        self._running[trial_id].lost = times

    def trial(self, trial_id: str) -> optuna.Trial:
        """Return the study's trial for a running trial of Tune."""
        return self._running[trial_id].trial

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notify the listeners. Tune does not call this for the report at which it stops a trial."""
        running, report = self._running[trial_id], TrialReport.of(result)
        running.failure = report.failure
        if report.slot:
            self.began(trial_id, report.slot)
        if report.failure or not report.steps:
            return
        if (seconds := running.held_seconds(self._clock())) - running.saved_seconds >= _KEEP_SECONDS:
            running.saved_seconds = seconds
            running.trial.set_user_attr(studies.HELD, seconds)  # so that the time is known if this driver is killed
        self._notify_listeners(running, running.new_in(report))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Save how the trial ended: COMPLETE, PRUNED if the scheduler stopped it, or FAIL with the reason."""
        running, last_report = self._running.pop(trial_id), TrialReport.of(result)
        trial = running.trial
        if error:  # Tune has restarted the trial as often as it may, and passes no report
            failure = _LOST if running.lost else running.failure or _ENDED
            last_report = replace(last_report, failure=failure, again=bool(running.lost))
        # If the scheduler stopped the trial, its last report is new.
        if (unseen := running.new_in(last_report)).curve:
            self._notify_listeners(running, unseen)
        again = last_report.again and self._runs_again(trial, last_report, running.lost or 1)
        report = replace(last_report, curve=running.curve, again=again)
        failure = self._failure_reason(report)
        seconds = running.held_seconds(self._clock())
        trial.set_user_attr(studies.HELD, seconds)
        if not report.again:  # saved before the end, so that any reader of an ended trial finds its report too
            self._drawn_trials.note_held(seconds)
            trial.set_user_attr(studies.REPORT, asdict(report))
        if failure:
            state = TrialState.FAIL
            if report.again:
                studies.ask_again(self._study, trial)
            else:
                studies.fail(self._study, trial, failure)
        elif report.finished:
            state = TrialState.COMPLETE
            self._study.tell(trial, [report.objective(name) for name in self._settings.objectives])
        else:
            state = TrialState.PRUNED
            self._study.tell(trial, state=state)
        if not (report.notice or (last_report.again and running.started_before < self._before_outage)):
            self._count_end(state, failure)
            self._before_outage = self._started if last_report.again else self._before_outage
        for listener in self._listeners:
            listener.ended(studies.identity(trial), state, report, failure)

    def close(self) -> None:
        """Put a trial that was drawn but not handed out back into the queue; to be called when no more trials start."""
        self._drawn_trials.drop()

    def run_again(self, failure: TrialReport) -> None:
        """End the running trials, whose processes Ray has killed, and queue their settings again."""
        for trial_id in list(self._running):
            self.on_trial_complete(trial_id, failure.as_result())

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study holds the whole state."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuse: a sweep continues from its study, never from Tune's files."""
        raise NotImplementedError(f"a sweep continues from its study, not from {checkpoint_path}")

    def __getstate__(self) -> dict[str, Any]:
        """Return no state: Tune saves a copy of the searcher, which is never read back."""
        return {}

    def _draw(self) -> Drawn:
        seconds_of = self._seconds_of if self._cost_of else None
        renew_sampler(
            self._study,
            self._settings.seed,
            self._settings.sampler,
            seconds_of=seconds_of,
            seconds_per_trial=self._seconds_per_trial(),
        )
        trial = self._study.ask()
        settings = self._space.settings(trial)
        trial.set_user_attr(studies.SETTINGS, settings)
        if self._cost_of and math.isfinite(price := self._cost_of(settings).own):
            trial.set_user_attr(studies.PRICE, price)
        return trial, settings

    def _seconds_of(self, params: Mapping[str, Any]) -> float:
        """Predict the seconds of a trial with these values, with its part of the experts missing from the store."""
        assert self._cost_of is not None
        _, settings = trial_with_params(self._space, params)
        return amortised(self._cost_of(settings))

    def _seconds_per_trial(self) -> float:
        """Return the remaining seconds for each trial still wanted; 0 if there is no deadline.

        Assumes that as many trials run at once as ever did.
        """
        if math.isinf(self._deadline):
            return 0.0
        remaining = self._settings.trials - self._finished - len(self._running)
        return (self._deadline - self._clock()) * self._at_once / remaining

    def _count_end(self, state: TrialState, failure: str) -> None:
        if studies.outcome(state, failure) != "fail":
            self._finished += 1
            self._failed_alike = 0
            return
        same_failure = _without_numbers(failure) == _without_numbers(self._last_failure)
        self._failed_alike, self._last_failure = (self._failed_alike if same_failure else 0) + 1, failure

    def _runs_again(self, trial: optuna.Trial, report: TrialReport, losses: int) -> bool:
        """Whether a trial that the store or a machine failed is run again; not if it has lost too many processes."""
        # No trial is to blame for the store, the disk or a machine that was taken back.
        if report.notice or report.failure.startswith(f"{PlaceError.__name__}:"):
            return True
        trial.set_user_attr(studies.LOST, report.failure)
        trial.set_user_attr(studies.LOSSES, losses)
        return studies.times_lost(self._study, studies.identity(trial)) <= LOSSES

    def _failure_reason(self, report: TrialReport) -> str:
        if report.failure:
            return report.failure
        if not report.steps:
            return "the trial ended without a report"
        for name in self._settings.objectives:
            if not math.isfinite(value := report.objective(name)):
                return f"{name} is {value} at step {report.step} of {report.steps}"
        return ""

    def _notify_listeners(self, running: _RunningTrial, report: TrialReport) -> None:
        for listener in self._listeners:
            listener.reported(studies.identity(running.trial), report)


def _without_numbers(message: str) -> str:
    """Return a failure's message without numbers, which differ between failures of the same kind.

    The numbers are steps, sizes, addresses, GPUs, names of records and Ray's ids.
    """
    return re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{16,}\b|\d+", "#", message)
