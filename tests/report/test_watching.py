import io
import time

import optuna
import pytest
from made_studies import searched
from rich.console import Console

from raydd.report.watching import sweep_status
from raydd.tuning import study as studies
from raydd.tuning.lease import driving


def shown(study: optuna.Study, rows: int, mlflow: str = "none") -> list[str]:
    console = Console(file=io.StringIO(), width=400)
    console.print(sweep_status(study, mlflow, rows))
    return console.file.getvalue().splitlines()


def test_running_trials_stand_first_and_the_latest_after_them(tmp_path):
    study = searched(60, ("r_mean",), storage=f"sqlite:///{tmp_path}/study.db")
    trial = study.ask()
    trial.set_user_attr("settings", {"distill.image_lr": 0.25})
    with driving(study):
        lines = shown(study, 4)
    assert lines[0].startswith("sweep ")
    assert "1 failed, 1 running" in lines[0]
    assert lines[1].startswith("best: trial ")
    assert lines[3].split()[:2] == ["60", "running"]
    assert [line.split()[0] for line in lines[4:]] == ["59", "58", "57"]
    assert "image_lr 0.25" in lines[3]


@pytest.mark.parametrize(("hours", "shown_time"), [(3, "3.0 h"), (None, "")])
def test_the_time_of_a_running_trial_counts_from_its_first_step_in_any_time_zone(
    tmp_path, monkeypatch, hours, shown_time
):
    study = searched(1, ("r_mean",), storage=f"sqlite:///{tmp_path}/study.db")
    trial = study.ask()  # whose time of start is that of its draw, in the time zone of the driver
    trial.set_user_attr("settings", {})
    if hours:
        trial.set_user_attr(studies.BEGAN, time.time() - hours * 3600)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with driving(study):
            heading, line = shown(study, 1)[2:]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert line[heading.index("time") - 3 : heading.index("settings")].strip() == shown_time


def test_a_trial_whose_driver_is_gone_is_called_interrupted():
    study = searched(3, ("r_mean",))
    study.ask().set_user_attr("settings", {})
    lines = shown(study, 1)
    assert "1 interrupted" in lines[0]
    assert "running" not in lines[0]


def test_a_failed_trial_shows_its_reason():
    assert any("failed" in line and "diverged" in line for line in shown(searched(50, ("r_mean",)), 1))


def test_a_sweep_without_trials_says_so():
    assert "no trial yet" in shown(searched(0, ("r_mean",)), 5)[0]


def test_without_mlflow_the_study_is_shown_and_the_losses_are_missed_once():
    lines = shown(searched(30, ("r_mean",)), 20, "http://127.0.0.1:9")
    assert sum("no losses: MLflow at http://127.0.0.1:9 does not answer" in line for line in lines) == 1
    assert [line.split()[0] for line in lines[-20:]] == [str(number) for number in range(29, 9, -1)]
