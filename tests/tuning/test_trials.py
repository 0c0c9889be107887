import math
import os
import signal
import time

import pytest
from optuna.trial import TrialState

from raydd.errors import PlaceError, TrialsError
from raydd.tuning import study as studies
from raydd.tuning.trials import RESTARTS, run_trials


def make_trial(folder, behave):
    """A trainable in place of a distillation: ten steps in five reports of what `behave(number, step)` scores."""

    def trial(given):
        from ray import tune

        from raydd.cluster.failures import breaks_process, failure_of
        from raydd.cluster.trial_report import TrialReport

        try:
            for step in range(2, 11, 2):
                r_mean = behave(given["number"], step)
                rung, record = (0, "synthetic/0") if step == 10 else (10 * step, "")
                report = TrialReport(step=step, steps=10, rung=rung, r_mean=r_mean, seconds=r_mean, record=record)
                tune.report(report.as_result())
        except Exception as error:  # as trial_reports does
            tune.report(failure_of(error).as_result())
            if breaks_process(error):
                raise

    return trial


@pytest.fixture
def run(ray_here, config, space, address, tmp_path, with_sweep):
    def run(behave, **changes):
        settings = with_sweep(config, **changes)
        study = studies.open_study(settings, space, address)
        trial, at_once = make_trial(tmp_path, behave), settings.sweep.at_once or 2
        run_trials(trial, study, space, settings.sweep, [], folder=str(tmp_path / "tune"), capacity=lambda: at_once)
        return study

    return run


def test_every_trial_ends_in_the_study_and_more_can_be_asked_for(run):
    def behave(number, step):
        return 10.0 * number + step

    study = run(behave, pruner="none", trials=3)
    assert [trial.value for trial in study.trials] == [10.0, 20.0, 30.0]
    assert study.trials[0].intermediate_values == {20: 2.0, 40: 4.0, 60: 6.0, 80: 8.0}
    for trial in study.trials:  # a slot is held from when the process began, not from when the trial was drawn
        assert trial.datetime_start.timestamp() < trial.user_attrs[studies.BEGAN]
        assert trial.user_attrs[studies.HELD] > 0
    assert len(run(behave, pruner="none", trials=3).trials) == 3
    assert [trial.value for trial in run(behave, pruner="none", trials=4).trials] == [10.0, 20.0, 30.0, 40.0]


@pytest.mark.slow
def test_failures_do_not_end_the_sweep(run):
    def behave(number, step):
        if number == 1 and step == 4:
            raise ZeroDivisionError("of all things")
        if number == 2:
            return math.nan
        if number == 3:
            os._exit(1)
        return 1.0

    study = run(behave, trials=4, at_once=1, pruner="none")
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL", "FAIL", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert studies.counts(study) == {"complete": 3, "diverged": 1, "fail": 2}
    reasons = [studies.reason(trial) for trial in study.trials]
    assert reasons[1] == "ZeroDivisionError: of all things"
    assert reasons[2] == "r_mean is nan at step 2 of 10"
    assert studies.interrupted(study.trials[3])  # three processes were lost, as with a machine, so it runs again
    assert "lost each time it was started" in reasons[4]
    assert studies.identity(study.trials[4]) == 3


@pytest.mark.slow
def test_a_trial_whose_process_died_once_goes_on(run, tmp_path):
    def behave(number, step):
        mark = tmp_path / "died"
        if number == 1 and step == 6 and not mark.exists():
            mark.touch()
            os._exit(1)
        return float(step)

    study = run(behave, trials=2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert study.trials[1].intermediate_values == {20: 2.0, 40: 4.0, 60: 6.0, 80: 8.0}


@pytest.mark.slow
def test_a_trial_that_is_told_to_leave_again_and_again_has_not_failed(run, tmp_path):
    """As by spot notices: three, where two failures are allowed."""

    def behave(number, step):
        told = len(list(tmp_path.glob("told*")))
        if number == 0 and step == 2 and told < 3:
            (tmp_path / f"told{told}").touch()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        return float(step)

    study = run(behave, trials=1)
    assert len(list(tmp_path.glob("told*"))) == 3
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]


def test_weak_trials_are_pruned(run):
    study = run(lambda number, step: 50.0 - 10 * number, trials=4, at_once=1)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    assert study.trials[1].value == 40.0


@pytest.mark.slow
def test_another_driver_stops_what_the_first_would_have_stopped(run):
    def behave(number, step):
        return [50.0, 48.0, 47.0, 46.0, 30.0, 60.0][number]

    run(behave, trials=4, at_once=1)
    study = run(behave, trials=6, at_once=1)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", *["PRUNED"] * 4, "COMPLETE"]


def test_a_trial_that_is_dominated_is_stopped(run):
    study = run(lambda number, step: [50.0, 40.0][number], trials=2, at_once=1, objectives=("r_mean", "bytes"))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]


@pytest.mark.slow
def test_several_objectives_give_a_front(run):
    study = run(lambda number, step: 10.0 * number + step, trials=3, objectives=("r_mean", "seconds"))
    assert [trial.values for trial in studies.pareto_front(study)] == [[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]]


def test_a_trial_that_the_store_or_the_disk_failed_is_asked_again_under_its_number(run, tmp_path):
    full = tmp_path / "full"
    full.touch()

    def behave(number, step):
        if number == 1 and full.exists():
            full.unlink()
            raise PlaceError("the disk is full")
        return float(number)

    study = run(behave, pruner="none", trials=3, at_once=1)
    assert studies.finished(study) == 3
    _, failed, again, _ = study.trials
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert studies.interrupted(failed)
    assert studies.identity(again) == 1
    assert again.params == failed.params


@pytest.mark.slow
def test_a_store_that_stays_away_ends_the_trials_and_the_same_command_makes_up_for_them(run, tmp_path):
    away = tmp_path / "away"
    away.touch()

    def behave(number, step):
        if away.exists():
            raise PlaceError("the store did not answer")
        return float(step)

    with pytest.raises(TrialsError, match=r"4 trials in a row .* \(PlaceError: the store"):
        run(behave, pruner="none", trials=1, at_once=1, max_failures=4)
    away.unlink()
    study = run(behave, pruner="none", trials=1, at_once=1)
    assert [studies.interrupted(trial) for trial in study.trials] == [True] * 4 + [False]
    assert studies.finished(study) == 1


@pytest.mark.slow
def test_a_paused_sweep_waits_and_goes_on(run, monkeypatch):
    begun = []

    def order(study, sweep):
        begun.append(len(study.trials))
        return "pause" if len(begun) < 6 else "go-on"

    monkeypatch.setattr("raydd.tuning.trials.order_of", order)
    study = run(lambda number, step: float(step), pruner="none", trials=2)
    assert studies.counts(study) == {"complete": 2}
    assert begun[:6] == [1] * 6  # the first settings wait


def test_a_plateau_ends_a_sweep_before_its_trials_are_through(run):
    study = run(lambda number, step: 40.0, pruner="none", trials=8, plateau=2, at_once=1)
    assert studies.counts(study) == {"complete": 3}


@pytest.mark.slow
def test_a_bad_gpu_ends_its_processes_and_then_the_sweep_which_goes_on_when_it_is_well(run, tmp_path):
    bad = tmp_path / "bad"
    bad.touch()

    def behave(number, step):
        import torch

        if bad.exists():
            (tmp_path / f"met by {os.getpid()}").touch()
            raise torch.AcceleratorError(f"CUDA error: an illegal memory access in trial {number}\nadvice")
        assert not (tmp_path / f"met by {os.getpid()}").exists()
        return float(step)

    with pytest.raises(TrialsError, match=r"2 trials in a row .* illegal memory access in trial 1\)"):
        run(behave, pruner="none", trials=2, at_once=1, max_failures=2)
    met = len(list(tmp_path.glob("met by *")))
    assert met == 2 * (RESTARTS + 1)  # each time another process
    bad.unlink()
    study = run(behave, pruner="none", trials=2, at_once=1)
    assert studies.counts(study) == {"fail": 2, "complete": 2}
    assert studies.retry_failed(study) == 2
    study = run(behave, pruner="none", trials=4, at_once=1)
    assert studies.counts(study) == {"complete": 4}
    assert len(list(tmp_path.glob("met by *"))) == met


@pytest.mark.slow
def test_one_trial_that_breaks_its_process_once_goes_on_in_another(run, tmp_path):
    def behave(number, step):
        import torch

        mark = tmp_path / "broke"
        if number == 1 and step == 6 and not mark.exists():
            mark.touch()
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return float(step)

    study = run(behave, pruner="none", trials=3)
    assert studies.counts(study) == {"complete": 3}
