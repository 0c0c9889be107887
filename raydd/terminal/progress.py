"""Progress on a terminal: a bar for each kind of work, with its rate and the time left; plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from raydd.progress import Progress as Listener
from raydd.terminal.console import open_console

_LINE_EVERY = 15.0  # seconds between two lines where there is no terminal


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s", style="progress.data.speed")


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
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def listen(work: str, done: int, total: int) -> None:
            if work not in tasks:
                tasks[work] = bars.add_task(work, total=total, completed=done)
            bars.update(tasks[work], completed=done, total=total)

        yield listen


class _Lines:
    """A line of progress now and then, for logs."""

    def __init__(self) -> None:
        self._began: dict[str, tuple[float, int]] = {}
        self._last = 0.0

    def __call__(self, work: str, done: int, total: int) -> None:
        now = time.monotonic()
        began, first = self._began.setdefault(work, (now, done))
        if done < total and now - self._last < _LINE_EVERY:
            return
        self._last = now
        rate = (done - first) / max(now - began, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        print(f"{work}: {done}/{total}, {rate:.1f}/s{left}", file=sys.stderr, flush=True)
