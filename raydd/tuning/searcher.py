"""Ray Tune's searcher: hands the study's trials to Tune, and what becomes of them back to the study.

Ray's own OptunaSearch leaves a trial with NaN RUNNING for ever, enters one that a scheduler stopped as COMPLETE with
its early value, and fails when a study is ahead of Tune's snapshot; here the states are what they say.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raydd.cluster.trial_report import TrialReport
from raydd.tuning import study as studies
from raydd.tuning.samplers import renew_sampler
from raydd.tuning.steering import Order
from search_spaces import Space


class Listener(Protocol):
    """Who wants to know how the trials go: the live table on the terminal, MLflow, a test."""

    def started(self, number: int, settings: Mapping[str, Any]) -> None:
        """A trial was handed to Tune; `number` is the one that these settings were first tried under."""
        ...

    def reported(self, number: int, report: TrialReport) -> None:
        """A running trial reported; its curve has the points that were not told before."""
        ...

    def ended(self, number: int, state: TrialState, report: TrialReport, reason: str) -> None:
        """A trial is COMPLETE, PRUNED, or FAIL with its reason; `report` is its last, with the whole curve."""
        ...


@dataclass
class _Running:
    trial: optuna.Trial
    noted: int = 0  # the last step whose score the study has
    curve: list[dict[str, float]] = field(default_factory=list)

    def new_in(self, report: TrialReport) -> TrialReport:
        """The report with the new points of its curve alone, which join the whole one."""
        known = self.curve[-1]["step"] if self.curve else -1
        new = [point for point in report.curve if point["step"] > known]  # one that was started again repeats itself
        self.curve += new
        return replace(report, curve=new)


class StudySearch(Searcher):
    """Asks the study for trials and tells it their ends."""

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        objectives: Sequence[str],
        listeners: Sequence[Listener] = (),
        *,
        seed: int = 0,
        sampler: str = "auto",
        at_once: int = 0,
        deadline: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        order: Callable[[], Order] = lambda: "go-on",
    ) -> None:
        """Search a study.

        Args:
            study: where trials are asked and told.
            space: suggests the settings of a trial.
            objectives: names of the report's values, in the order of the study's directions.
            listeners: told of every trial.
            seed: seed of the sampler.
            sampler: `sweep.sampler`.
            at_once: trials that may run together; 0 leaves that to Tune.
            deadline: when no more trials are started, by `clock`, in seconds.
            clock: what the deadline is read from.
            order: asked before each trial: go-on, pause, or stop.
        """
        super().__init__()
        self._study, self._space, self._objectives = study, space, tuple(objectives)
        self._listeners, self._seed, self._at_once = tuple(listeners), seed, at_once
        self._deadline, self._clock, self._sampler, self._order = deadline, clock, sampler, order
        self._running: dict[str, _Running] = {}
        self.asked_again = 0
        """Trials whose settings were queued anew, since the store, the disk or a lost node failed them."""

    @property
    def running(self) -> int:
        """Trials that were handed to Tune and have not ended."""
        return len(self._running)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's number and dotted settings, None while enough are running, FINISHED if no more shall be."""
        order = self._order()
        if order == "stop" or self._clock() >= self._deadline:
            return Searcher.FINISHED
        if order == "pause":
            return None
        if self._at_once and len(self._running) >= self._at_once:
            return None
        renew_sampler(self._study, self._seed, self._sampler)
        trial = self._study.ask()
        settings = self._space.settings(trial)
        trial.set_user_attr(studies.SETTINGS, settings)
        self._running[trial_id] = _Running(trial)
        number = studies.identity(trial)
        for listener in self._listeners:
            listener.started(number, settings)
        return {"number": number, "settings": settings}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note a score on the way; Tune does not tell of the one at which it stops a trial."""
        running, report = self._running[trial_id], TrialReport.of(result)
        if report.failure:
            return
        self._note(running, report)
        self._tell(running, running.new_in(report))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study the trial's end: COMPLETE, PRUNED if the scheduler stopped it, or FAIL with the reason."""
        running, last = self._running.pop(trial_id), TrialReport.of(result)
        trial = running.trial
        if (rest := running.new_in(last)).curve:  # Tune did not tell of it if it stopped the trial
            self._tell(running, rest)
        report = replace(last, curve=running.curve)
        why = self._why_failed(report, error)
        if not report.again:  # before the end is told: whoever finds the trial over finds its report too
            trial.set_user_attr(studies.REPORT, asdict(report))
        if why:
            state = TrialState.FAIL
            if report.again:
                self.asked_again += 1
                studies.ask_again(self._study, trial)
            else:
                studies.fail(self._study, trial, why)
        elif report.finished:
            state = TrialState.COMPLETE
            self._note(running, report)
            self._study.tell(trial, [report.objective(name) for name in self._objectives])
        else:
            state = TrialState.PRUNED
            self._note(running, report)
            self._study.tell(trial, state=state)
        for listener in self._listeners:
            listener.ended(studies.identity(trial), state, report, why)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuse, since a study is opened again, never restored from Tune's files."""
        raise NotImplementedError(f"a sweep goes on from its study, not from {checkpoint_path}")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps a copy of the searcher among its notes, which are never read back."""
        return {}

    def _why_failed(self, report: TrialReport, error: bool) -> str:
        if error:
            return "the trial's process died each time it was started (killed, or out of memory)"
        if report.failure:
            return report.failure
        if not report.steps:
            return "the trial ended without a report"
        for name in self._objectives:
            if not math.isfinite(value := report.objective(name)):
                return f"{name} is {value} at step {report.step} of {report.steps}"
        return ""

    def _tell(self, running: _Running, report: TrialReport) -> None:
        for listener in self._listeners:
            listener.reported(studies.identity(running.trial), report)

    def _note(self, running: _Running, report: TrialReport) -> None:
        if len(self._objectives) > 1 or not math.isfinite(report.r_mean):
            return  # Optuna keeps scores on the way for a single objective only
        if report.step > running.noted:  # a trial that was started again repeats itself
            running.trial.report(report.r_mean, report.step)
            running.noted = report.step
