"""When no machine comes, the autoscaler's own error is shown."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from nodes import Nodes
from refusing_cloud import CLUSTER, HEAD, REASON

from raydd.cluster.launch_failures import LaunchFailures, report_launch_failures

LINE = "2026-01-01 12:00:00,000\tINFO node_provider.py:491 -- Failed to launch 1 nodes of type worker: {}\n"
INSTALL = (
    "2026-01-01 12:00:01,000\tINFO instance_manager.py:263 -- Update instance RAY_INSTALLING->RAY_INSTALL_FAILED ({}"
)


def test_the_newest_reason_since_the_sweep_began(tmp_path: Path):
    log = tmp_path / "monitor.log"
    log.write_text(LINE.format("of yesterday"))
    failures = LaunchFailures(log)
    assert failures.look() == ""
    with log.open("a") as file:
        file.write(LINE.format(REASON))
        file.flush()
        assert failures.look() == REASON
        file.write(INSTALL.format("id=1, type=worker, cloud_instance_id=i-1, ray_id=): failed to"))
        file.flush()
        assert failures.look() == REASON  # a line that is not whole
        file.write(" install ray\n")
        file.flush()
    assert failures.look() == "failed to install ray"


def test_a_driver_on_another_machine_has_no_log(tmp_path: Path):
    assert LaunchFailures(tmp_path / "monitor.log").look() == ""


def test_each_reason_is_told_once(tmp_path: Path):
    log, told, heard = tmp_path / "monitor.log", [], threading.Event()

    def say(message: str) -> None:
        told.append(message)
        heard.set()

    failures = LaunchFailures(log)
    with report_launch_failures(failures, say, pause=0.01):
        log.write_text(LINE.format("no quota") * 3)
        assert heard.wait(10)
        heard.clear()
        with log.open("a") as file:
            file.write(LINE.format("no quota") + LINE.format("no capacity"))
        assert heard.wait(10)
    assert [message.rpartition("error: ")[2] for message in told] == ["no quota", "no capacity"]


DRIVER = """
import sys, ray
from raydd.cluster import gpus
from raydd.errors import ConfigError
ray.init(sys.argv[1], log_to_driver=False, logging_level=50)
gpus.MACHINE_SECONDS = 8.0
try:
    gpus.usable_cards()
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_cluster_that_gets_no_machine_says_what_the_cloud_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = tmp_path / "cluster.yaml"
    config.write_text(yaml.safe_dump(CLUSTER))
    tests = Path(__file__).parents[1]
    for name, value in {**HEAD, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}.items():
        monkeypatch.setenv(name, value)
    nodes = Nodes(tmp_path, f"--autoscaling-config={config}")
    try:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, nodes.address],
            env=os.environ | nodes.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        nodes.close()
    assert f"no machine with one came, since Ray's autoscaler met this: {REASON}" in done.stdout, done.stderr
