"""Progress without a terminal: lines that are true, and none twice."""

import io
import itertools

import pytest
from rich.console import Console

from raydd.terminal import progress
from raydd.terminal.progress import ThrottledLog, progress_on


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


def test_short_work_is_told_every_five_seconds_and_long_work_every_minute(told):
    short = told(*((second, "images", second, 100) for second in range(21)))
    assert [line.split(",")[0] for line in short] == [f"images: {done}/100" for done in (0, 5, 10, 15, 20)]
    long = told(*((second, "steps", second, 9999) for second in range(3600)))
    seconds = [int(line.split()[1].split("/")[0]) for line in long]
    pauses = [after - before for before, after in itertools.pairwise(seconds)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (5, 60)


def test_what_does_not_move_is_told_ever_more_rarely_and_never_twice_alike(told):
    lines = told(*((second, "experts", 0, 4) for second in range(41)), (42, "experts", 4, 4))
    assert lines == [
        "experts: 0/4",
        *(f"experts: 0/4, {second} s so far" for second in (5, 10, 15, 20, 27, 36)),
        "experts: 4/4, 5.7/min",
    ]


def test_slow_work_has_its_rate_by_the_minute(told):
    lines = told((0, "experts", 0, 9), (300, "experts", 4, 9))
    assert lines[1] == "experts: 4/9, 0.8/min, 6 min left"


def test_words_are_said_where_they_changed_and_else_with_their_age():
    clock, said = [100.0], []
    say = ThrottledLog(said.append, lambda: clock[0])
    for second, words in ((0, ""), (1, "a"), (2, "b"), (6, "b"), (9, "b"), (11, "b"), (17, "b"), (30, "b")):
        clock[0] = 100.0 + second
        say(words)
    assert said == ["a", "b", "b, for 5 s", "b, for 11 s", "b, for 24 s"]


def test_what_was_there_already_is_no_speed(told):
    assert told((0, "images", 80, 90), (5, "images", 90, 90)) == ["images: 80/90", "images: 90/90, 2.0/s"]


def test_an_end_is_told_once_and_the_next_of_the_same_name_again(told):
    lines = told(
        (0, "epochs", 0, 2), (1, "epochs", 2, 2), (2, "epochs", 2, 2), (3, "epochs", 0, 2), (4, "epochs", 2, 2)
    )
    assert lines == ["epochs: 0/2", "epochs: 2/2", "epochs: 0/2", "epochs: 2/2"]
