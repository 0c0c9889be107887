import io

import pytest
from optuna.trial import TrialState
from rich.console import Console

from raydd.tuning.live import Board, brief, duration
from raydd.tuning.reports import TrialReport


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def board(clock):
    console = Console(file=io.StringIO(), width=120)
    doing = {"trial 4": "epochs of experts 12/40"}
    return Board("small", 6, {"complete": 1}, at_once=2, doing=lambda: doing, console=console, clock=lambda: clock[0])


def shown(board):
    return board._console.file.getvalue()


def picture(board):
    console = Console(file=io.StringIO(), width=120)
    console.print(board.picture())
    return console.file.getvalue()


def report(step, r_mean):
    return TrialReport(step=step, steps=10, r_mean=r_mean)


def test_a_line_a_finished_trial_where_there_is_no_terminal(board, clock):
    with board:
        board.started(3, {"distill.image_lr": 0.05})
        clock[0] = 20.0
        board.reported(3, report(5, 20.0))
        board.ended(3, TrialState.COMPLETE, report(10, 30.0), "")
        board.started(4, {})
        board.ended(4, TrialState.PRUNED, report(5, 10.0), "")
        board.started(5, {})
        board.ended(5, TrialState.FAIL, TrialReport(), "NonFiniteError: the loss is nan")
    assert shown(board).splitlines() == [
        "trial 3: r_mean 30.00 on val, 20 s (2/6, best 30.00)",
        "trial 4: r_mean 10.00 on val, stopped as weak at step 5, 0 s (3/6, best 30.00)",
        "trial 5 failed: NonFiniteError: the loss is nan",
    ]


def test_the_picture_has_the_running_the_best_and_the_time_left(board, clock):
    board.started(3, {"distill.image_lr": 0.05, "distill.blend": "none"})
    clock[0] = 60.0
    board.ended(3, TrialState.COMPLETE, report(10, 30.0), "")
    board.started(4, {})
    clock[0] = 90.0
    board.reported(4, report(5, 21.5))
    lines = picture(board).splitlines()
    assert lines[0].rstrip() == "sweep small 2/6 trials (2 complete), about 2 min left"
    assert lines[1].rstrip() == "best: trial 3, r_mean 30.00; image_lr 0.05, blend none"
    assert lines[3].split() == ["4", "5/10", "21.50", "30", "s", "epochs", "of", "experts", "12/40"]


def test_a_running_trial_s_loss_is_a_sparkline(board):
    board.started(4, {})
    for step in (5, 10):
        curve = [{"step": step, "distill/loss": 1.0 - step / 10}]
        board.reported(4, TrialReport(step=step, steps=10, r_mean=20.0, curve=curve))
    assert "█▁" in picture(board)


def test_time_left_counts_what_runs_already(board, clock):
    board.started(3, {})
    clock[0] = 60.0
    board.ended(3, TrialState.COMPLETE, report(10, 30.0), "")
    board.started(4, {})
    clock[0] = 90.0
    assert board.seconds_left() == pytest.approx((4 * 60 - 30) / 2)


def test_short_words():
    assert brief({"distill.image_lr": 0.123456, "experts.lr": 0.2, "distill.rank": 5}) == (
        "image_lr 0.123, experts.lr 0.2, rank 5"
    )
    assert [duration(seconds) for seconds in (45, 720, 12600)] == ["45 s", "12 min", "3.5 h"]


def test_before_the_first_trial_ended_the_time_left_is_the_expected_one(clock):
    board = Board("small", 6, {}, at_once=2, expected=100.0, clock=lambda: clock[0])
    clock[0] = 30.0
    assert board.seconds_left() == 70.0
