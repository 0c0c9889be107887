"""Shows progress: on a terminal a bar for each kind of work, with its rate and the time left; elsewhere plain lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from raydd.progress import Progress as Listener
from raydd.terminal.console import open_console
from raydd.terminal.text import duration

_PAUSE, _LONGEST_PAUSE = 5.0, 60.0  # seconds between two lines if there is no terminal
_KNOWN_AFTER = 3.0  # seconds of work before its rate is shown, since the first items do not predict the others


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or (task.speed if (task.elapsed or 0.0) >= _KNOWN_AFTER else None)
        return Text(_format_rate(speed) if speed else "", style="progress.data.speed")


class _RemainingColumn(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        estimate_known = task.finished or (task.elapsed or 0.0) >= _KNOWN_AFTER
        return super().render(task) if estimate_known else Text("-:--:--", style="progress.remaining")


@contextmanager
def progress_on(console: Console | None = None) -> Iterator[Listener]:
    """Give a listener that shows the progress of stages while the block runs.

    Args:
        console: the terminal on which bars are shown; standard error if None. Code that prints inside the block must
            print on the same console, or bars and lines are mixed up. If it is no terminal, plain lines go to standard
            error instead, also if the console is another file: results that are written there stay free of progress.
    """
    console = console or open_console(stderr=True)
    if not console.is_terminal:
        yield _ProgressLines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        _RemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def listen(work: str, done: int, total: int) -> None:
            if work not in tasks:
                tasks[work] = bars.add_task(work, total=total, completed=done)
            bars.update(tasks[work], completed=done, total=total)

        yield listen


class ThrottledLog:
    """Logs what is being done: at once, then every 5 seconds, and less often the longer it takes."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a line.

        Args:
            say: writes a line.
            clock: gives the time in seconds.
        """
        self._say, self._clock = say, clock
        self._started_at = self._changed_at = self._logged_at = clock()
        self._description = ""

    def __call__(self, description: str) -> None:
        """Take a description of what is being done now, and log it if a line is due; ignore an empty description."""
        now, changed = self._clock(), description != self._description
        if not description:
            return
        age = now - (self._started_at if changed else self._changed_at)
        if self._description and not _is_due(age, now - self._logged_at, changed=changed):
            return
        if changed:
            self._description, self._changed_at = description, now
        self._logged_at = now
        self._say(description if changed else f"{description}, for {duration(now - self._changed_at)}")


@dataclass
class _Work:
    started_at: float
    initial_done: int  # items that were already done when it began
    done: int
    progressed_at: float
    """When `done` was first reported."""
    written_at: float
    """When the last line was written."""


class _ProgressLines:
    """Writes progress as lines for logs: at the start and the end of each work, and from time to time in between."""

    def __init__(self) -> None:
        self._works: dict[str, _Work] = {}

    def __call__(self, work: str, done: int, total: int) -> None:
        now, state = time.monotonic(), self._works.get(work)
        if state is None or done < state.done:  # new work of the same name
            state = self._works[work] = _Work(now, done, done, now, now)
        else:
            progressed = done > state.done
            age = now - (state.started_at if progressed else state.progressed_at)
            if state.done == total or not (
                (progressed and done == total) or _is_due(age, now - state.written_at, changed=progressed)
            ):
                return
            state.progressed_at = now if progressed else state.progressed_at
        state.done, state.written_at = done, now
        seconds, suffix = now - state.started_at, ""
        if state.progressed_at < now:
            suffix = f", {duration(seconds)} so far"
        elif done > state.initial_done and seconds >= _KNOWN_AFTER:
            rate = (done - state.initial_done) / seconds
            suffix = f", {_format_rate(rate)}" + (f", {duration((total - done) / rate)} left" if done < total else "")
        print(f"{work}: {done}/{total}{suffix}", file=sys.stderr, flush=True)


def _is_due(age: float, since_last_line: float, *, changed: bool) -> bool:
    """Whether a line is due.

    Args:
        age: seconds since the work began, or since it last made progress if it has not changed.
        since_last_line: seconds since the last line.
        changed: the work has made progress since the last line.
    """
    return since_last_line >= (min(_LONGEST_PAUSE, max(_PAUSE, age / 10)) if changed else max(_PAUSE, age / 4))


def _format_rate(per_second: float) -> str:
    """Format a rate as `12.8/s`, or below 1/s as items per minute, such as `4.2/min`."""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{60 * per_second:.2g}/min"
