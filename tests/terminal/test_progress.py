"""Progress without a terminal: lines that are true, and none twice."""

import io

import pytest
from rich.console import Console

from raydd.terminal import progress
from raydd.terminal.progress import progress_on


@pytest.fixture
def told(monkeypatch, capsys):
    """Tell progress at given seconds; gives the lines."""

    def told(*calls: tuple[float, str, int, int]) -> list[str]:
        clock = iter([seconds for seconds, *_ in calls])
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
        with progress_on(Console(file=io.StringIO())) as listen:
            for _, work, done, total in calls:
                listen(work, done, total)
        return capsys.readouterr().err.splitlines()

    return told


def test_no_rate_is_told_from_the_first_items(told):
    lines = told((100, "images", 0, 90), (101, "images", 1, 90), (116, "images", 32, 90), (130, "images", 90, 90))
    assert lines == ["images: 0/90", "images: 32/90, 2.0/s, 29 s left", "images: 90/90, 3.0/s"]


def test_what_was_there_already_is_no_speed(told):
    assert told((0, "images", 80, 90), (5, "images", 90, 90)) == ["images: 80/90", "images: 90/90, 2.0/s"]


def test_an_end_is_told_once_and_the_next_of_the_same_name_again(told):
    lines = told(
        (0, "epochs", 0, 2), (1, "epochs", 2, 2), (2, "epochs", 2, 2), (3, "epochs", 0, 2), (4, "epochs", 2, 2)
    )
    assert lines == ["epochs: 0/2", "epochs: 2/2", "epochs: 0/2", "epochs: 2/2"]
