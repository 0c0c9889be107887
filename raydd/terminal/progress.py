"""Progress on a terminal: a bar for each kind of work, with its rate and the time left; plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from raydd.progress import Progress as Listener
from raydd.terminal.console import open_console
from raydd.terminal.text import duration

_LINE_EVERY = 15.0  # seconds between two lines where there is no terminal
_KNOWN_AFTER = 3.0  # seconds of work before its rate is told: the first items say nothing of the others


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or (task.speed if (task.elapsed or 0.0) >= _KNOWN_AFTER else None)
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


class _LeftColumn(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        known = task.finished or (task.elapsed or 0.0) >= _KNOWN_AFTER
        return super().render(task) if known else Text("-:--:--", style="progress.remaining")


@contextmanager
def progress_on(console: Console | None = None) -> Iterator[Listener]:
    """A listener for the stages' progress, for as long as the block lasts."""
    console = console or open_console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        _LeftColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def listen(work: str, done: int, total: int) -> None:
            if work not in tasks:
                tasks[work] = bars.add_task(work, total=total, completed=done)
            bars.update(tasks[work], completed=done, total=total)

        yield listen


@dataclass
class _Work:
    began: float
    first: int  # items that were done when it began
    done: int


class _Lines:
    """A line of progress now and then, for logs: at the start, every 15 seconds, and at the end of each work."""

    def __init__(self) -> None:
        self._works: dict[str, _Work] = {}
        self._last = 0.0

    def __call__(self, work: str, done: int, total: int) -> None:
        now, known = time.monotonic(), self._works.get(work)
        if known is None or done < known.done:  # the next one of the same name
            known = self._works[work] = _Work(now, done, done)
        elif known.done == total or (done < total and now - self._last < _LINE_EVERY):
            return
        known.done, self._last = done, now
        seconds, more = now - known.began, ""
        if done > known.first and seconds >= _KNOWN_AFTER:
            rate = (done - known.first) / seconds
            more = f", {rate:.1f}/s" + (f", {duration((total - done) / rate)} left" if done < total else "")
        print(f"{work}: {done}/{total}{more}", file=sys.stderr, flush=True)
