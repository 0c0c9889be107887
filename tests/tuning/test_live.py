import io
import math
import threading
from dataclasses import replace

import pytest
from optuna.trial import TrialState
from rich.console import Console

import raydd.tuning.live
from raydd.cluster.trial_report import TrialReport
from raydd.tuning.live import LiveTable, what_runs


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def live(clock):
    console = Console(file=io.StringIO(), width=120)
    doing = {"trial 4": "epochs of experts 12/40"}
    return LiveTable("small", 6, {"complete": 1}, doing=lambda: doing, console=console, clock=lambda: clock[0])


def shown(live):
    return live._console.file.getvalue()


def picture(live):
    live.look()
    console = Console(file=io.StringIO(), width=80)
    console.print(live.picture())
    return console.file.getvalue()


def row(text, number):
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [str(number)])


def start(live, number, settings=None):
    live.started(number, settings or {})
    live.began(number, "")


def report(step, r_mean):
    return TrialReport(step=step, steps=10, r_mean=r_mean)


def test_a_line_a_finished_trial_where_there_is_no_terminal(live, clock):
    with live:
        start(live, 3, {"distill.image_lr": 0.05})
        clock[0] = 20.0
        live.reported(3, report(5, 20.0))
        live.ended(3, TrialState.COMPLETE, report(10, 30.0), "")
        start(live, 4)
        live.ended(4, TrialState.PRUNED, report(5, 10.0), "")
        start(live, 5)
        live.ended(5, TrialState.FAIL, TrialReport(), "NonFiniteError: the loss is nan")
    assert shown(live).splitlines() == [
        "trial 3: r_mean 30.00 on val, 20 s (2/6, best 30.00)",
        "trial 4: r_mean 10.00 on val, stopped as weak at step 5, 0 s (3/6, best 30.00)",
        "trial 5 failed: NonFiniteError: the loss is nan",
    ]


def test_a_log_is_told_what_trials_are_doing_while_none_ends(live, clock):
    for second in range(21):
        clock[0] = second
        live.look()
    assert shown(live).splitlines() == [
        "trial 4: epochs of experts 12/40",
        *(f"trial 4: epochs of experts 12/40, for {second} s" for second in (5, 10, 15, 20)),
    ]


def test_a_log_is_told_while_the_table_is_open(monkeypatch):
    monkeypatch.setattr(raydd.tuning.live, "_LOOK_SECONDS", 0.01)
    asked = threading.Event()

    def doing():
        asked.set()
        return {"trial 0": "steps 1/9"}

    with LiveTable("small", 6, {}, doing=doing, console=Console(file=io.StringIO())) as live:
        assert asked.wait(10)
    assert shown(live).splitlines() == ["trial 0: steps 1/9"]


def test_a_few_of_many_trials_are_named():
    doing = {f"trial {number}": f"steps {number}/99" for number in range(12)} | {"final 1": ""}
    assert what_runs(doing) == (
        "trial 0: steps 0/99; trial 1: steps 1/99; trial 2: steps 2/99; trial 3: steps 3/99; 8 more"
    )


def test_the_picture_has_the_running_the_best_and_the_time_left(live, clock):
    start(live, 3, {"distill.image_lr": 0.05, "distill.blend": "none"})
    clock[0] = 60.0
    start(live, 4)
    live.ended(3, TrialState.COMPLETE, report(10, 30.0), "")
    clock[0] = 90.0
    live.reported(4, replace(report(5, 21.5), rung=15))
    lines = picture(live).splitlines()
    assert lines[0].rstrip() == "sweep small 2/6 trials (2 complete), about 2 min left"
    assert lines[1].rstrip() == "best: trial 3, r_mean 30.00; image_lr 0.05, blend none"
    assert lines[3].split() == ["4", "5/10", "15", "%", "21.50", "30", "s", "epochs", "of", "experts", "12/40"]


@pytest.fixture
def two(clock):
    """A table of trials 4 and 5 on a terminal of 80 columns, and what processes say."""
    doing = {}
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    table = LiveTable("small", 40, {}, doing=lambda: doing, console=console, clock=lambda: clock[0])
    for number in (4, 5):
        start(table, number)
    return table, doing


def test_a_trial_s_steps_and_time_left_are_what_its_process_says(two, clock):
    table, doing = two
    doing["trial 4"] = "distillation steps 100/1000"
    assert row(picture(table), 4) == ["4", "100/1000", "0", "s", "distillation"]
    assert row(picture(table), 5) == ["5", "0", "s", "its", "process", "starts"]
    clock[0], doing["trial 4"] = 20.0, "distillation steps 300/1000"
    assert row(picture(table), 4) == ["4", "300/1000", "20", "s", "70", "s", "distillation"]
    table.reported(4, TrialReport(step=150, steps=1000, rung=15, r_mean=21.5))  # told later than the steps
    doing["trial 4"] = "fits of the students' learning rates 0/1"
    assert row(picture(table), 4)[:5] == ["4", "300/1000", "15", "%", "21.50"]


def test_a_full_row_fits_a_terminal_of_80_columns_whole(two, clock):
    table, doing = two
    curve = [{"step": step, "distill/loss": 1000 - step} for step in range(0, 1000, 20)]
    table.reported(4, TrialReport(step=450, steps=1000, rung=45, r_mean=21.5, curve=curve))
    clock[0], doing["trial 4"] = 900.0, "fits of the students' learning rates 10/100"
    doing["experts of trial 17"] = "epochs of experts 12/40"
    shown = picture(table)
    words = " ".join(shown.split())
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "…" not in shown
    assert "450/1000 45 % 21.50" in words
    assert "experts of trial 17: epochs of experts 12/40" in words


def test_nothing_is_left_of_the_table_once_no_trial_runs(two):
    table, _ = two
    for number in (4, 5):
        table.ended(number, TrialState.COMPLETE, report(10, 30.0), "")
    assert "step" not in picture(table)
    table._trial_count = 2
    assert "left" not in picture(table)


def test_a_log_names_trials_that_have_said_nothing_yet(live):
    live.started(4, {})
    live.started(5, {})
    live.look()
    assert shown(live) == "trial 4: epochs of experts 12/40; trial 5: its process starts\n"


def test_the_picture_does_not_wait_for_who_is_slow_to_answer(two):
    table, _ = two
    asked = threading.Event()
    table._doing = lambda: asked.wait(10) and {}
    console = Console(file=io.StringIO(), width=80)
    looking = threading.Thread(target=table.look)
    looking.start()
    console.print(table.picture())
    assert looking.is_alive()
    asked.set()
    looking.join()


def test_a_running_trial_s_loss_is_a_sparkline(live):
    start(live, 4)
    for step in (5, 10):
        curve = [{"step": step, "distill/loss": 1.0 - step / 10}]
        live.reported(4, TrialReport(step=step, steps=10, r_mean=20.0, curve=curve))
    assert "█▁" in picture(live)


def test_time_left_counts_what_runs_already(live, clock):
    start(live, 3)
    clock[0] = 60.0
    start(live, 4)
    live.ended(3, TrialState.COMPLETE, report(10, 30.0), "")
    clock[0] = 90.0
    assert live.seconds_left() == pytest.approx((4 * 60 - 30) / 2)


def test_before_the_first_trial_ended_the_time_left_is_the_expected_one(clock):
    live = LiveTable("small", 6, {}, expected=100.0, clock=lambda: clock[0])
    clock[0] = 30.0
    assert live.seconds_left() == 70.0
    clock[0] = 130.0
    assert math.isnan(live.seconds_left())  # and not 0


def test_trials_that_were_stopped_count_for_the_time_left_and_so_do_long_ones_that_run(two, clock):
    table, _ = two
    clock[0] = 10.0
    table.ended(4, TrialState.PRUNED, report(1, 10.0), "")
    assert table.seconds_left() == (39 * 10 - 10) / 2
    clock[0] = 40.0
    assert table.seconds_left() == (39 * 25 - 25) / 2


def test_the_time_left_is_that_of_as_many_at_once_as_a_cluster_was_seen_to_hold(clock):
    live = LiveTable("small", 100, {}, clock=lambda: clock[0])
    for number in range(16):
        start(live, number)
    clock[0] = 60.0
    for number in range(16):
        live.ended(number, TrialState.COMPLETE, report(10, 30.0), "")
    assert live.seconds_left() == 84 * 60 / 16


def test_trials_that_wait_for_a_machine_do_not_count_as_running(clock):
    live = LiveTable("small", 41, {}, clock=lambda: clock[0])
    for number in range(16):  # for which the cluster may start machines
        live.started(number, {})
    clock[0] = 300.0
    live.began(0, "")
    live.began(1, "")
    clock[0] = 360.0
    live.began(0, "another slot")
    live.ended(0, TrialState.COMPLETE, report(10, 30.0), "")
    assert live.seconds_left() == (40 * 60 - 60) / 2
    console = Console(file=io.StringIO(), width=80)
    console.print(live.picture())
    assert row(console.file.getvalue(), 1)[:3] == ["1", "60", "s"]
    assert row(console.file.getvalue(), 2) == ["2", "its", "process", "starts"]
