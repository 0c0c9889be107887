"""A sweep on the terminal: one live table of it, or a line a finished trial where there is no terminal."""

import contextlib
import math
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

from raydd.cluster.meanwhile import meanwhile
from raydd.cluster.trial_report import TrialReport
from raydd.terminal.console import open_console, visible
from raydd.terminal.progress import NowAndThen
from raydd.terminal.text import brief, duration, sparkline
from raydd.tuning import study as studies

LOSS = "distill/loss"  # the curve that is drawn small
_WORDS = {"complete": "complete", "pruned": "stopped as weak", "diverged": "diverged", "fail": "failed"}
_REFRESH = 2.0  # times a second
_LOOK_SECONDS = 1.0  # between two looks at what the trials are doing, where there is no terminal
_NAMED = 4  # processes that a line of a log says the work of


@dataclass
class _Running:
    settings: Mapping[str, Any]
    begun: float
    report: TrialReport
    losses: list[float] = field(default_factory=list)


class LiveTable:
    """Shows the trials of a sweep; a context, and a listener of the searcher."""

    def __init__(
        self,
        name: str,
        wanted: int,
        done: Mapping[str, int],
        *,
        at_once: int,
        best: tuple[int, float, Mapping[str, Any]] | None = None,
        expected: float = math.nan,
        doing: Callable[[], Mapping[str, str]] = dict,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show nothing yet.

        Args:
            name: the sweep's.
            wanted: trials in all.
            done: trials of earlier commands, by outcome.
            at_once: trials that run together, to tell the time left.
            best: number, val r_mean and settings of the best trial of earlier commands.
            expected: seconds that the trials may take, until the first one has ended.
            doing: what each process is making meanwhile, see `raydd.cluster.claims`.
            console: where to show.
            clock: seconds.
        """
        self._name, self._wanted, self._at_once, self._best = name, wanted, max(1, at_once), best
        self._done, self._doing, self._clock = Counter(done), doing, clock
        self._expected, self._begun = expected, clock()
        self._console = console or open_console()
        self._running: dict[int, _Running] = {}
        self._durations: list[float] = []
        self._shown = contextlib.ExitStack()
        self._now_and_then = NowAndThen(self.say, clock)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            live = Live(console=self._console, get_renderable=self.picture, refresh_per_second=_REFRESH)
            self._shown.enter_context(live)
        else:
            self._shown.enter_context(meanwhile(self.say_what_runs, _LOOK_SECONDS, "what trials do"))
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def say_what_runs(self) -> None:
        """Say now and then what the trials are doing; to be called again and again where there is no terminal."""
        self._now_and_then(what_runs(self._doing()))

    def say(self, message: str) -> None:
        """Show one line that stays."""
        self._console.print(message, soft_wrap=True, markup=False, highlight=False)

    def started(self, number: int, settings: Mapping[str, Any]) -> None:
        """A trial begins."""
        self._running[number] = _Running(settings, self._clock(), TrialReport())

    def reported(self, number: int, report: TrialReport) -> None:
        """A trial got on."""
        running = self._running[number]
        running.losses += [point[LOSS] for point in report.curve if LOSS in point]
        running.report = report

    def ended(self, number: int, state: TrialState, report: TrialReport, reason: str) -> None:
        """A trial is over."""
        trial = self._running.pop(number)
        seconds = self._clock() - trial.begun
        if not report.again:
            self._done[studies.outcome(state, reason)] += 1
        if state == TrialState.COMPLETE:
            self._durations.append(seconds)
            if self._best is None or report.r_mean > self._best[1]:
                self._best = (number, report.r_mean, trial.settings)
        if state == TrialState.FAIL:
            self.say(f"trial {number} failed: {reason}")
        elif not self._console.is_terminal:
            end = "" if state == TrialState.COMPLETE else f", stopped as weak at step {report.step}"
            best = f", best {self._best[1]:.2f}" if self._best else ""
            so_far = f"({self.finished}/{self._wanted}{best})"
            self.say(f"trial {number}: r_mean {report.r_mean:.2f} on val{end}, {seconds:.0f} s {so_far}")

    @property
    def finished(self) -> int:
        """Trials that are over and count, those of earlier commands included."""
        return studies.counted(self._done)

    def seconds_left(self) -> float:
        """A guess of the time left, from the trials that ran to their end; before that, what was expected."""
        now = self._clock()
        if not self._durations:
            return max(0.0, self._expected - (now - self._begun)) if not math.isnan(self._expected) else math.nan
        each = sum(self._durations) / len(self._durations)
        begun = sum(min(now - trial.begun, each) for trial in self._running.values())
        return max(0.0, ((self._wanted - self.finished) * each - begun) / self._at_once)

    def picture(self) -> Group:
        """The whole table, below its headline."""
        doing = self._doing()
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("trial", "step", "val r_mean", "loss", "time", "now"):
            table.add_column(heading, justify="left" if heading == "now" else "right")
        for number, trial in sorted(self._running.items()):
            report = trial.report
            table.add_row(
                str(number),
                f"{report.step}/{report.steps}" if report.steps else "",
                "" if math.isnan(report.r_mean) else f"{report.r_mean:.2f}",
                sparkline(trial.losses),
                duration(self._clock() - trial.begun),
                doing.get(f"trial {number}", ""),
            )
        return Group(self._headline(), *self._best_line(), table)

    def _headline(self) -> Text:
        states = ", ".join(f"{self._done[state]} {word}" for state, word in _WORDS.items() if self._done[state])
        left = self.seconds_left()
        return Text.assemble(
            (f"sweep {self._name} ", "bold"),
            f"{self.finished}/{self._wanted} trials",
            f" ({states})" if states else "",
            f", about {duration(left)} left" if not math.isnan(left) else "",
        )

    def _best_line(self) -> list[Text]:
        if self._best is None:
            return []
        number, r_mean, settings = self._best
        return [Text(visible(f"best: trial {number}, r_mean {r_mean:.2f}; {brief(settings)}"), style="green")]


def what_runs(doing: Mapping[str, str]) -> str:
    """What processes are making, as `raydd.cluster.claims` knows it, in a line: a few by name, the others counted."""
    working = sorted((who for who in doing if doing[who]), key=lambda who: (len(who), who))
    named = "; ".join(f"{who}: {doing[who]}" for who in working[:_NAMED])
    return f"{named}; {len(working) - _NAMED} more" if len(working) > _NAMED else named
