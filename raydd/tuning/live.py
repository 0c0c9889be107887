"""Shows a sweep's progress: a live table on a terminal, or one line for each finished trial in a log."""

import contextlib
import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from optuna.trial import TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raydd.cluster.trial_report import TrialReport
from raydd.meanwhile import meanwhile
from raydd.terminal.console import open_console, visible
from raydd.terminal.progress import ThrottledLog
from raydd.terminal.text import brief, duration, sparkline
from raydd.tuning import study as studies

LOSS = "distill/loss"  # the curve that is drawn as a sparkline
_WORDS = {"complete": "complete", "pruned": "stopped as weak", "diverged": "diverged", "fail": "failed"}
_REFRESH = 2.0  # times a second
_LOOK_SECONDS = 1.0  # between two questions about what the trials are doing
_NAMED = 4  # processes whose work a line of a log names
_CURVE = 8  # bars of the loss's sparkline
_BEGINS = "its process starts"
_STEPS = re.compile(r"distillation steps (\d+)/(\d+)")  # as `raydd.stages` reports them


@dataclass
class _RunningTrial:
    settings: Mapping[str, Any]
    report: TrialReport
    start_time: float | None = None
    """When it began to hold its slot; None while it waits for a machine."""
    losses: list[float] = field(default_factory=list)
    rung: int = 0
    """The last rung that it reached, in percent of its steps."""
    step: int = 0
    steps: int = 0
    first_seen: tuple[float, int] | None = None
    """When its steps were first seen, and how many it had taken by then."""

    def update_steps(self, step: int, steps: int, now: float) -> None:
        """Note how many steps the trial has taken. A late report of fewer steps is ignored."""
        self.first_seen = self.first_seen or (now, step)
        self.step, self.steps = max(step, self.step), steps

    def held_seconds(self, now: float) -> float:
        """Return for how long it has held its slot."""
        return 0.0 if self.start_time is None else now - self.start_time

    def seconds_left(self, now: float) -> float:
        """Estimate the seconds of the remaining steps; NaN until some steps were seen."""
        first_time, first_step = self.first_seen or (now, self.step)
        return (
            (now - first_time) / (self.step - first_step) * (self.steps - self.step)
            if self.step > first_step
            else math.nan
        )


class LiveTable:
    """Shows the trials of a sweep. A context manager, and a listener of the searcher."""

    def __init__(
        self,
        name: str,
        trial_count: int,
        done: Mapping[str, int],
        *,
        best: tuple[int, float, Mapping[str, Any]] | None = None,
        expected: float = math.nan,
        doing: Callable[[], Mapping[str, str]] = dict,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the table; it is shown inside the context.

        Args:
            name: name of the sweep.
            trial_count: trials in all.
            done: trials of earlier commands, by outcome.
            best: number, val r_mean and settings of the best trial of earlier commands.
            expected: expected seconds of all trials, used until the first trial has ended.
            doing: returns what each process is working on, see `raydd.cluster.claims`.
            console: where to show the table.
            clock: returns the time in seconds.
        """
        self._name, self._trial_count, self._best = name, trial_count, best
        self._done, self._doing, self._clock = Counter(done), doing, clock
        self._expected, self._start_time = expected, clock()
        self._console = console or open_console()
        self._running: dict[int, _RunningTrial] = {}
        self._most_at_once = 1
        self._durations: list[float] = []
        self._work_by_process: Mapping[str, str] = {}
        self._exit_stack = contextlib.ExitStack()
        self._throttled_log = ThrottledLog(self.say, clock)

    def __enter__(self) -> Self:
        # In a thread, since the answer to what trials are doing may be slow; the table must not wait for it.
        self._exit_stack.enter_context(meanwhile(self.look, _LOOK_SECONDS, "what trials do"))
        if self._console.is_terminal:
            live = Live(console=self._console, get_renderable=self.picture, refresh_per_second=_REFRESH)
            self._exit_stack.enter_context(live)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit_stack.close()

    def look(self) -> None:
        """Ask what the processes are doing; without a terminal, print it now and then. To be called repeatedly."""
        self._work_by_process, now = self._doing(), self._clock()
        for number, trial in list(self._running.items()):
            if match := _STEPS.fullmatch(self._work_by_process.get(f"trial {number}", "")):
                trial.update_steps(int(match[1]), int(match[2]), now)
        if not self._console.is_terminal:
            self._throttled_log(what_runs(self._current_work()))

    def _current_work(self) -> dict[str, str]:
        """Return what every process is doing, including the processes of trials that have not reported yet."""
        silent = [number for number, trial in list(self._running.items()) if not trial.steps]
        return {
            **dict.fromkeys((f"trial {number}" for number in silent), _BEGINS),
            **_without_idle(self._work_by_process),
        }

    def say(self, message: str) -> None:
        """Print one line that stays above the table."""
        self._console.print(message, soft_wrap=True, markup=False, highlight=False)

    def started(self, number: int, settings: Mapping[str, Any]) -> None:
        """Add a trial to the table."""
        self._running[number] = _RunningTrial(settings, TrialReport())

    def began(self, number: int, slot: str) -> None:  # noqa: ARG002
        """Let the trial's time begin, unless it has begun in another slot."""
        trial = self._running[number]
        trial.start_time = self._clock() if trial.start_time is None else trial.start_time
        self._most_at_once = max(self._most_at_once, len(self._begun()))

    def _begun(self) -> list[_RunningTrial]:
        return [trial for trial in list(self._running.values()) if trial.start_time is not None]

    def reported(self, number: int, report: TrialReport) -> None:
        """Update a trial's step, score and loss."""
        running = self._running[number]
        running.losses += [point[LOSS] for point in report.curve if LOSS in point]
        running.report, running.rung = report, report.rung or running.rung
        running.update_steps(report.step, report.steps, self._clock())

    def ended(self, number: int, state: TrialState, report: TrialReport, reason: str) -> None:
        """Remove a trial from the table, and print how it ended."""
        trial = self._running.pop(number)
        seconds = trial.held_seconds(self._clock())
        if not report.again:
            self._done[studies.outcome(state, reason)] += 1
        if state in (TrialState.COMPLETE, TrialState.PRUNED):
            self._durations.append(seconds)
        if state == TrialState.COMPLETE and (self._best is None or report.r_mean > self._best[1]):
            self._best = (number, report.r_mean, trial.settings)
        if state == TrialState.FAIL:
            self.say(f"trial {number} failed: {reason}")
        elif not self._console.is_terminal:
            end = "" if state == TrialState.COMPLETE else f", stopped as weak at step {report.step}"
            best = f", best {self._best[1]:.2f}" if self._best else ""
            so_far = f"({self.finished}/{self._trial_count}{best})"
            self.say(f"trial {number}: r_mean {report.r_mean:.2f} on val{end}, {seconds:.0f} s {so_far}")

    @property
    def finished(self) -> int:
        """How many trials have ended and count, including those of earlier commands."""
        return studies.counted(self._done)

    def seconds_left(self) -> float:
        """Estimate the seconds left from the trials that have ended; before any has, from the plan. NaN: not known.

        Assumes that as many trials run at once as ever did: how many machines a cluster starts is not known beforehand.
        Trials that wait for a machine do not run.
        """
        now = self._clock()
        if not self._durations:
            remaining = self._expected - (now - self._start_time)
            return remaining if remaining > 0 else math.nan
        # The first trials to end are stopped ones, which are short. Running trials that already took longer count too.
        running_seconds = [trial.held_seconds(now) for trial in self._begun()]
        mean_seconds = statistics.fmean(self._durations)
        trial_seconds = statistics.fmean(
            [*self._durations, *(seconds for seconds in running_seconds if seconds > mean_seconds)]
        )
        return max(
            0.0,
            (
                (self._trial_count - self.finished) * trial_seconds
                - sum(min(elapsed, trial_seconds) for elapsed in running_seconds)
            )
            / self._most_at_once,
        )

    def picture(self) -> Group:
        """Return the headline, the best trial and the table of running trials."""
        work_by_process, now = self._current_work(), self._clock()
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("trial", "step", "rung", "r_mean", "loss", "time", "left", "now"):
            table.add_column(heading, justify="left" if heading == "now" else "right", no_wrap=heading != "now")
        for number, trial in sorted(self._running.items()):
            doing, remaining = work_by_process.get(f"trial {number}", ""), trial.seconds_left(now)
            table.add_row(
                str(number),
                f"{trial.step}/{trial.steps}" if trial.steps else "",
                f"{trial.rung} %" if trial.rung else "",
                "" if math.isnan(trial.report.r_mean) else f"{trial.report.r_mean:.2f}",
                sparkline(trial.losses, _CURVE),
                "" if trial.start_time is None else duration(trial.held_seconds(now)),
                "" if math.isnan(remaining) else duration(remaining),
                "distillation" if _STEPS.fullmatch(doing) else doing,
            )
        rows = [table] if self._running else []
        other_work = {process: doing for process, doing in work_by_process.items() if not process.startswith("trial ")}
        return Group(
            self._headline(), *self._best_line(), *rows, *([Text(what_runs(other_work))] if other_work else [])
        )

    def _headline(self) -> Text:
        states = ", ".join(f"{self._done[state]} {word}" for state, word in _WORDS.items() if self._done[state])
        remaining = self.seconds_left() if self.finished < self._trial_count else math.nan
        return Text.assemble(
            (f"sweep {self._name} ", "bold"),
            f"{self.finished}/{self._trial_count} trials",
            f" ({states})" if states else "",
            f", about {duration(remaining)} left" if not math.isnan(remaining) else "",
        )

    def _best_line(self) -> list[Text]:
        if self._best is None:
            return []
        number, r_mean, settings = self._best
        return [Text(visible(f"best: trial {number}, r_mean {r_mean:.2f}; {brief(settings)}"), style="green")]


def what_runs(doing: Mapping[str, str]) -> str:
    """Return in one line what processes are working on: the first few by name, and the number of the others.

    Args:
        doing: the work of each process, from `raydd.cluster.claims`.
    """
    working = sorted(_without_idle(doing), key=lambda process: (len(process), process))
    named = "; ".join(f"{process}: {doing[process]}" for process in working[:_NAMED])
    return f"{named}; {len(working) - _NAMED} more" if len(working) > _NAMED else named


def _without_idle(doing: Mapping[str, str]) -> dict[str, str]:
    return {process: work for process, work in doing.items() if work}
