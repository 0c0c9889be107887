"""MLflow for a team: the server that cluster/README.md starts, with a database and a bucket, and many who log."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_server import mlflow_server
from s3_server import BUCKET, Server, s3  # noqa: F401

from raydd.config import Config
from raydd.preflight import quick_checks
from raydd.settings import with_settings

POINTS = 200
LOGGER = """
import json, sys
from raydd.tracking.runs import Tracking

address, number = sys.argv[1], int(sys.argv[2])
with Tracking(address, say=lambda text: print(text, file=sys.stderr)) as tracking:
    sweep = tracking.run("sweep", ("raydd.sweep", f"team-{number}"))
    sweep.params({"distill.pairs": number})
    for trial in range(2):
        run = tracking.run(f"trial-{trial}", ("raydd.trial", f"team-{number}/{trial}"), sweep)
        run.params({"distill.image_lr": 0.1 * trial})
        run.curve([{"step": step, "loss": 1.0 / step, "val/IR@1": step} for step in range(1, %d + 1)])
        run.files("synthetic", lambda into: (into / "set.bin").write_bytes(bytes([number, trial])))
        run.end()
    sweep.end()
"""


@pytest.fixture
def server(s3: Server, tmp_path: Path) -> Iterator[str]:  # noqa: F811
    with mlflow_server(s3, tmp_path) as address:
        yield address


@pytest.mark.slow
def test_the_server_answers_the_checks_before_a_sweep(server: str, tmp_path: Path):
    config = with_settings(Config(), {"place.mlflow": server, "place.home": str(tmp_path / "home")})
    asked = {check.name: check for check in quick_checks(config, "sweep")}
    assert asked["MLflow"].state == "ok", asked["MLflow"].text  # it has no experiment of raydd's yet


@pytest.mark.slow
def test_four_processes_log_at_once_and_again_and_nothing_is_lost_or_doubled(server: str, s3: Server):  # noqa: F811
    secrets = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
    without = {name: value for name, value in os.environ.items() if name not in secrets}
    began = time.monotonic()
    for numbers in (range(4), [2]):  # the third one once more, as a sweep that goes on
        command = [sys.executable, "-c", LOGGER % POINTS, server]
        processes = [subprocess.Popen([*command, str(number)], env=without) for number in numbers]
        assert [process.wait(300) for process in processes] == [0] * len(processes)
    print(f"{time.monotonic() - began:.1f} s")
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("raydd")
    runs = client.search_runs([experiment.experiment_id])
    trials = {run.data.tags["raydd.trial"]: run for run in runs if "raydd.trial" in run.data.tags}
    assert len(runs) == 4 + 8
    assert sorted(trials) == [f"team-{number}/{trial}" for number in range(4) for trial in range(2)]
    for name, run in trials.items():
        for metric in ("loss", "val/IR_at_1"):
            points = client.get_metric_history(run.info.run_id, metric)
            assert sorted(point.step for point in points) == list(range(1, POINTS + 1)), name
        assert [item.path for item in client.list_artifacts(run.info.run_id, "synthetic")] == ["synthetic/set.bin"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    listed = s3.client.list_objects_v2(Bucket=BUCKET, Prefix="mlflow/")["Contents"]
    assert sum(item["Key"].endswith("synthetic/set.bin") for item in listed) == 8
    assert json.dumps(experiment.artifact_location).startswith('"mlflow-artifacts:')
