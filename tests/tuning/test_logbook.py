import pytest
from mlflow import MlflowClient

import raydd
from raydd.cluster.trial_report import TrialReport
from raydd.config import SweepConfig
from raydd.tracking.connection import EXPERIMENT
from raydd.tracking.runs import Tracking
from raydd.tuning import study as studies
from raydd.tuning.logbook import Logbook
from raydd.tuning.searcher import StudySearch


def test_trials_that_ended_with_their_driver_are_logged_by_the_next_one_once(config, space, address, tmp_path):
    study = studies.open_study(config, space, address)
    search = StudySearch(study, space, SweepConfig(trials=9))
    for name in ("stopped", "failed", "running"):
        search.suggest(name)
    for step in (1, 2):
        report = TrialReport(step=step, steps=4, r_mean=30.0 + step, curve=[{"step": step, "distill/loss": 1 / step}])
        search.on_trial_result("stopped", report.as_result())
    search.on_trial_complete("stopped", report.as_result())
    search.on_trial_complete("failed", TrialReport(failure="NonFiniteError: loss is nan").as_result())

    mlflow = f"sqlite:///{tmp_path}/mlflow.db"
    for _ in range(2):
        with Tracking(mlflow, tmp_path / "artifacts") as tracking:
            Logbook(tracking, studies.study_id(study), raydd.open(config)).catch_up(study)
    client = MlflowClient(mlflow)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    stopped, failed = sorted(
        (run for run in runs if run.data.tags.get("kind") == "trial"), key=lambda run: run.info.run_name
    )
    assert [run.data.tags.get("raydd.order") for run in (stopped, failed)] == ["weak 068.00", None]
    assert (stopped.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert failed.data.tags["raydd.reason"] == "NonFiniteError: loss is nan"
    losses = client.get_metric_history(stopped.info.run_id, "distill/loss")
    assert [(point.step, point.value) for point in losses] == [(1, 1.0), (2, pytest.approx(0.5))]
