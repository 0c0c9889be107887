"""Ray Tune's searcher: hands the study's trials to Tune, and what becomes of them back to the study.

Ray's own OptunaSearch leaves a trial with NaN RUNNING for ever, enters one that a scheduler stopped as COMPLETE with
its early value, and fails when a study is ahead of Tune's snapshot; here the states are what they say.
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
from raydd.tuning import study as studies
from raydd.tuning.cheap_starts import CostOf, of_params
from raydd.tuning.drawing_ahead import DrawingAhead, Drawn
from raydd.tuning.prices import total
from raydd.tuning.pruning import passed_rungs
from raydd.tuning.samplers import renew_sampler
from raydd.tuning.steering import Order
from search_spaces import Space

_KEEP_SECONDS = 60.0  # between two notes in the study of how long a trial has held its place


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
    began: int
    """Trials handed to Tune before it."""
    since: float
    """When it was handed to Tune, by the search's clock."""
    failure: str = ""  # that it reported; it may go on in a fresh process all the same
    kept: float = 0.0  # seconds that it had held its place when the study was last told
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
        wanted: int,
        max_failures: int = 0,
        seed: int = 0,
        sampler: str = "auto",
        cost_of: CostOf | None = None,
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
            wanted: trials that the study is to have in the end; failed ones do not count.
            max_failures: so many in a row that failed for the same reason are the last ones; 0 for any number.
            seed: seed of the sampler.
            sampler: `sweep.sampler`.
            cost_of: what a trial of some settings costs to its end, for a sampler that weighs it.
            deadline: when no more trials are started, by `clock`, in seconds.
            clock: what the deadline and the time that trials take are read from.
            order: asked before each trial: go-on, pause, or stop.
        """
        super().__init__()
        self._study, self._space, self._objectives = study, space, tuple(objectives)
        self._listeners, self._seed, self._wanted = tuple(listeners), seed, wanted
        self._max_failures, self._failed_alike, self._last_failure = max_failures, 0, ""
        self._deadline, self._clock, self._sampler, self._order = deadline, clock, sampler, order
        self._cost_of = cost_of
        self._finished = studies.finished(study)
        self._running: dict[str, _Running] = {}
        self._asked = self._before_outage = self._at_once = 0
        self._trials = DrawingAhead(self._draw)

    @property
    def running(self) -> int:
        """Trials that were handed to Tune and have not ended."""
        return len(self._running)

    @property
    def gave_up(self) -> str:
        """The reason for which so many trials in a row failed that no more are started; empty while all is well."""
        return self._last_failure if 0 < self._max_failures <= self._failed_alike else ""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's number, dotted settings, and the rungs that it passed before it was interrupted.

        None while those that run are enough, FINISHED if no more shall be.
        """
        order = self._order()
        if order == "stop" or self._clock() >= self._deadline or self.gave_up or self._finished >= self._wanted:
            return Searcher.FINISHED
        if order == "pause" or self._finished + len(self._running) >= self._wanted:
            return None  # one of those that run may fail
        self._at_once = max(self._at_once, len(self._running) + 1)
        trial, settings = self._trials.take()
        self._running[trial_id] = _Running(trial, self._asked, self._clock())
        self._asked += 1
        if self._finished + len(self._running) < self._wanted:
            self._trials.begin()
        number = studies.identity(trial)
        for listener in self._listeners:
            listener.started(number, settings)
        passed = passed_rungs(self._study, number) if number != trial.number else []
        return {"number": number, "settings": settings, "passed": passed}

    def trial(self, trial_id: str) -> optuna.Trial:
        """The study's trial behind a running one of Tune's."""
        return self._running[trial_id].trial

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the listeners; Tune does not tell of the report at which it stops a trial."""
        running, report = self._running[trial_id], TrialReport.of(result)
        running.failure = report.failure
        if report.failure:
            return
        if (held := self._clock() - running.since) - running.kept >= _KEEP_SECONDS:
            running.kept = held
            running.trial.set_user_attr(studies.HELD, held)  # all that is known of it if this driver is killed
        self._tell(running, running.new_in(report))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study the trial's end: COMPLETE, PRUNED if the scheduler stopped it, or FAIL with the reason."""
        running, last = self._running.pop(trial_id), TrialReport.of(result)
        trial = running.trial
        if (rest := running.new_in(last)).curve:  # Tune did not tell of it if it stopped the trial
            self._tell(running, rest)
        report = replace(last, curve=running.curve)
        why = self._why_failed(report, running.failure if error else "", error)
        held = self._clock() - running.since
        trial.set_user_attr(studies.HELD, held)
        if not report.again:  # before the end is told: whoever finds the trial over finds its report too
            self._trials.held(held)
            trial.set_user_attr(studies.REPORT, asdict(report))
        if why:
            state = TrialState.FAIL
            if report.again:
                studies.ask_again(self._study, trial)
            else:
                studies.fail(self._study, trial, why)
        elif report.finished:
            state = TrialState.COMPLETE
            self._study.tell(trial, [report.objective(name) for name in self._objectives])
        else:
            state = TrialState.PRUNED
            self._study.tell(trial, state=state)
        if not (report.again and running.began < self._before_outage):
            self._count(state, why)
            self._before_outage = self._asked if report.again else self._before_outage
        for listener in self._listeners:
            listener.ended(studies.identity(trial), state, report, why)

    def close(self) -> None:
        """Put back what was drawn and not handed out, once no more trials are started."""
        self._trials.drop()

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuse, since a study is opened again, never restored from Tune's files."""
        raise NotImplementedError(f"a sweep goes on from its study, not from {checkpoint_path}")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps a copy of the searcher among its notes, which are never read back."""
        return {}

    def _draw(self) -> Drawn:
        seconds_of = self._seconds_of if self._cost_of else None
        renew_sampler(self._study, self._seed, self._sampler, seconds_of=seconds_of, share=self._share())
        trial = self._study.ask()
        settings = self._space.settings(trial)
        trial.set_user_attr(studies.SETTINGS, settings)
        if self._cost_of and math.isfinite(price := self._cost_of(settings).own):
            trial.set_user_attr(studies.PRICE, price)
        return trial, settings

    def _seconds_of(self, params: Mapping[str, Any]) -> float:
        """What a trial of these values would take, with the experts that the store lacks."""
        assert self._cost_of is not None
        _, settings = of_params(self._space, params)
        return total([self._cost_of(settings)])

    def _share(self) -> float:
        """Seconds that each trial still wanted has, as many at once as were ever; 0 if no time is set."""
        if math.isinf(self._deadline):
            return 0.0
        wanted = self._wanted - self._finished - len(self._running)
        return (self._deadline - self._clock()) * self._at_once / wanted

    def _count(self, state: TrialState, why: str) -> None:
        if studies.outcome(state, why) != "fail":
            self._finished += 1
            self._failed_alike = 0
            return
        alike = _without_numbers(why) == _without_numbers(self._last_failure)
        self._failed_alike, self._last_failure = (self._failed_alike if alike else 0) + 1, why

    def _why_failed(self, report: TrialReport, before: str, error: bool) -> str:
        if error:
            return before or "the trial's process died each time it was started (killed, or out of memory)"
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


def _without_numbers(why: str) -> str:
    """What failures of one kind have in common: they differ in steps, sizes, addresses, GPUs and names of records."""
    return re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{16}\b|\d+", "#", why)
