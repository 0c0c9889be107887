import io
import time

from rich.console import Console

import raydd.terminal.progress
from raydd.terminal import busy
from raydd.terminal.busy import busy_on


def test_a_log_is_told_at_once_and_again_while_it_lasts(monkeypatch):
    monkeypatch.setattr(busy, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(raydd.terminal.progress, "_PAUSE", 0.0)
    console = Console(file=io.StringIO())
    with busy_on(console, "starting Ray"):
        assert console.file.getvalue() == "starting Ray\n"
        until = time.monotonic() + 10
        while console.file.getvalue().count("\n") < 2 and time.monotonic() < until:
            time.sleep(0.01)
    first, second, *_ = console.file.getvalue().splitlines()
    assert (first, second) == ("starting Ray", "starting Ray, for 0 s")


def test_a_terminal_shows_it_only_while_it_lasts():
    console = Console(file=io.StringIO(), force_terminal=True)
    with busy_on(console, "starting Ray"):
        until = time.monotonic() + 10
        while "starting Ray" not in console.file.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        assert "starting Ray" in console.file.getvalue()
    assert console.file.getvalue().endswith("\x1b[2K")
