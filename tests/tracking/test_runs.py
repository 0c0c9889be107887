import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from raydd.tracking.connection import EXPERIMENT, metric_name
from raydd.tracking.runs import Tracking


def runs(address):
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return client, client.search_runs([experiment.experiment_id])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mlflow")  # one database for the module: each fresh one costs its migrations


@pytest.fixture(scope="module")
def address(folder):
    return f"sqlite:///{folder / 'mlflow.db'}"


def test_a_sweep_is_a_run_with_nested_runs(folder, address):
    with Tracking(address, folder / "artifacts") as tracking:
        sweep = tracking.run("sweep", ("raydd.sweep", "one"))
        sweep.params({"distill.pairs": 99})
        trial = tracking.run("trial-0", ("raydd.trial", "one/0"), parent=sweep)
        trial.curve([{"step": 1, "val/IR@1": 3.5, "loss": 1.0}, {"step": 2, "val/IR@1": 4.5, "loss": 0.5}])
        trial.figure("figures/empty.png", Figure)
        trial.files("synthetic", lambda into: (into / "a.txt").write_text("pairs"))
        trial.dataset("synthetic", "0123456789abcdef", "store/distill/0123456789abcdef", "train", lambda: 99)
        trial.tags({"raydd.state": "COMPLETE"})
        trial.end()
    client, found = runs(address)
    (parent,) = [run for run in found if run.data.tags.get("raydd.sweep") == "one"]
    (child,) = [run for run in found if run.data.tags.get("raydd.trial") == "one/0"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params == {"distill.pairs": "99"}
    assert child.data.metrics == {"val/IR_at_1": 4.5, "loss": 0.5}
    assert [point.step for point in client.get_metric_history(child.info.run_id, "loss")] == [1, 2]
    assert child.info.status == "FINISHED"
    assert {item.path for item in client.list_artifacts(child.info.run_id)} == {"figures", "synthetic"}
    (shown,) = child.inputs.dataset_inputs
    assert (shown.dataset.digest, shown.dataset.profile) == ("0123456789abcdef", '{"num_rows": 99}')
    assert [(tag.key, tag.value) for tag in shown.tags] == [("mlflow.data.context", "train")]


def test_a_run_that_goes_on_keeps_the_first_value_of_a_setting(folder, address):
    said = []
    for steps in (40, 20):
        with Tracking(address, folder / "artifacts", said.append) as tracking:
            run = tracking.run("sweep", ("raydd.sweep", "again"))
            run.params({"pixels.steps": steps, f"only.{steps}": steps})
    _, found = runs(address)
    (run,) = [run for run in found if run.data.tags.get("raydd.sweep") == "again"]
    assert run.data.params == {"pixels.steps": "40", "only.40": "40", "only.20": "20"}
    assert said == []


def test_a_trial_that_is_run_again_adds_no_run_and_no_point(folder, address):
    for last in (2, 3):
        with Tracking(address, folder / "artifacts") as tracking:
            run = tracking.run("trial-7", ("raydd.trial", "two/7"))
            run.curve([{"step": step, "loss": 1.0 / step} for step in range(1, last + 1)])
            run.end()
    client, found = runs(address)
    (run,) = [run for run in found if run.data.tags.get("raydd.trial") == "two/7"]
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3]


def test_a_refused_entry_is_said_once_and_the_rest_is_logged(folder, address):
    said = []
    with Tracking(address, folder / "artifacts", said.append, pause=0.01) as tracking:
        run = tracking.run("trial-1", ("raydd.trial", "three/1"))
        run.params({"distill.pairs": 99})
        run.params({"distill.pairs": 100})  # MLflow refuses to change a param
        run.curve([{"step": 1, "loss": 1.0}])
    _, found = runs(address)
    (run,) = [run for run in found if run.data.tags.get("raydd.trial") == "three/1"]
    assert run.data.metrics == {"loss": 1.0}
    assert len(said) == 2
    assert "refused" in said[0]
    assert said[1].startswith("1 entries")


def test_nobody_waits_for_a_server_that_is_not_there():
    said = []
    tracking = Tracking(f"http://127.0.0.1:{free_port()}", say=said.append, grace=0.2, pause=0.05)
    run = tracking.run("trial", ("raydd.trial", "four/0"))
    begin = time.monotonic()
    for step in range(1000):
        run.curve([{"step": step, "loss": 1.0}])
    assert time.monotonic() - begin < 5  # one that waited would take a second an entry
    while not said and time.monotonic() - begin < 60:  # MLflow's client takes its time to be imported
        time.sleep(0.05)
    tracking.close()
    assert "does not answer" in said[0]
    assert said[-1].startswith("1000 entries")


def test_the_end_waits_for_a_database_that_is_not_there_no_longer_than_it_says():
    said = []
    tracking = Tracking(f"postgresql+psycopg://me@127.0.0.1:{free_port()}/x", say=said.append, grace=0.2, pause=0.05)
    tracking.run("trial", ("raydd.trial", "seven/0")).curve([{"step": 1, "loss": 1.0}])
    wait_until(lambda: said)  # MLflow's client takes its time to be imported
    begin = time.monotonic()
    tracking.close()
    assert time.monotonic() - begin < 10  # MLflow tries an unreachable database for 101 s
    assert "does not answer" in said[0]
    assert said[-1].startswith("1 entries")


def test_none_tracks_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MLflow would put its database and its artefacts by itself
    with Tracking("none") as tracking:
        run = tracking.run("trial", ("raydd.trial", "five/0"))
        run.curve([{"step": 1, "loss": 1.0}])
        run.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "name"), [("val/IR@1", "val/IR_at_1"), ("a(b)%", "a_b__"), ("val/r_mean", "val/r_mean")]
)
def test_metric_names(key, name):
    assert metric_name(key) == name


@pytest.mark.slow
def test_what_is_logged_while_the_server_is_away_arrives_when_it_is_back(tmp_path):
    port, said = free_port(), []
    server = serve(tmp_path, port)
    try:
        with Tracking(f"http://127.0.0.1:{port}", say=said.append, pause=0.2) as tracking:
            run = tracking.run("trial", ("raydd.trial", "six/0"))
            run.curve([{"step": 1, "loss": 1.0}])
            wait_until(lambda: run._id)
            stop(server)
            for step in range(2, 50):
                run.curve([{"step": step, "loss": 1.0 / step}])
            wait_until(lambda: said)
            server = serve(tmp_path, port)
        client, found = runs(f"http://127.0.0.1:{port}")
        assert [point.step for point in client.get_metric_history(found[0].info.run_id, "loss")] == list(range(1, 50))
        assert len(found) == 1
        assert "does not answer" in said[0]
        assert "answers again" in said[1]
    finally:
        stop(server)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(folder, port):
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--workers", "1"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def listening():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listening)
    return server


def stop(server):
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
