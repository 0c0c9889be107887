"""What a cluster may grow to, from what its autoscaler reads, and that it grows to it when trials want slots."""

import copy
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from growing_cloud import CLUSTER
from nodes import Nodes
from ray._private.ray_constants import LOGGER_FORMAT
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from refusing_cloud import HEAD

from raydd.cluster import connect, gpus, growth
from raydd.cluster.growth import Growth
from raydd.config import Config
from raydd.errors import ConfigError
from raydd.settings import with_settings

ROOT = Path(__file__).parents[2]


def log_line(text: str) -> str:
    """A line as Ray's autoscaler writes it into its log."""
    record = logging.makeLogRecord({"levelname": "INFO", "filename": "monitor.py", "lineno": 1, "msg": text})
    return logging.Formatter(LOGGER_FORMAT).format(record) + "\n"


def command(*options: str) -> str:
    """The first line of the log of Ray's monitor."""
    return log_line(f"AutoscalerMonitor started with command: {['monitor.py', '--logs-dir=/tmp', *options]}")


def settings_in(config: Mapping[str, Any]) -> str:
    """What the log says of the settings."""
    return log_line(f"Using Autoscaling Config: \n{AutoscalingConfig(copy.deepcopy(dict(config))).dump()}")


@pytest.fixture
def head(tmp_path, monkeypatch):
    """Sets what the autoscaler's log on this machine says, and how many machines run besides the head."""
    log = tmp_path / "monitor.log"
    monkeypatch.setattr(growth, "autoscaler_log", lambda: log)
    monkeypatch.setattr(growth, "is_autoscaler_v2", lambda: True)

    def say(text: str = "", workers: int = 0) -> None:
        log.write_text(text)
        monkeypatch.setattr(growth, "ray", SimpleNamespace(nodes=lambda: [{"Alive": True}] * (1 + workers)))

    say()
    return say


def test_the_autoscaler_s_file_says_which_machines_may_come(head, tmp_path):
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(yaml.safe_dump(prepare_config(CLUSTER)))
    head(command(f"--autoscaling-config={file}") + settings_in(CLUSTER) + log_line("later"))
    worker = {"CPU": 4, "GPU": 1}
    assert growth.growth() == Growth((worker, worker), 2)
    changed = copy.deepcopy(CLUSTER)
    changed["available_node_types"]["worker"]["max_workers"] = changed["max_workers"] = 5
    file.write_text(yaml.safe_dump(prepare_config(changed)))  # as `ray up --no-restart` does
    assert growth.growth() == Growth((worker,) * 5, 5)
    assert growth.growth().gpus == 5


def test_on_kubernetes_the_log_says_it(head):
    job = yaml.safe_load((ROOT / "cluster" / "rayjob.yaml").read_text(encoding="utf-8"))
    resource = {"metadata": {"name": "raydd", "namespace": "default"}, "spec": job["spec"]["rayClusterSpec"]}
    head(settings_in(_derive_autoscaling_config_from_ray_cr(resource)))
    found = growth.growth()
    assert [(machine["CPU"], machine["GPU"]) for machine in found.machines] == [(7, 1)] * 8
    assert (found.most, found.unknown) == (8, False)


def test_a_cluster_without_an_autoscaler_stays_as_it_is(head, monkeypatch):
    head(command())  # Ray starts a monitor on every head
    assert growth.growth() == Growth()
    monkeypatch.setattr(growth, "is_autoscaler_v2", lambda: False)
    monkeypatch.setattr(growth, "autoscaler_log", lambda: None)
    assert growth.growth() == Growth()


@pytest.mark.parametrize("workers", [1, 2])
def test_machines_over_ssh_say_what_they_have_when_they_have_joined(head, workers):
    config = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text(encoding="utf-8"))
    config["provider"]["worker_ips"] = ["192.168.0.11", "192.168.0.12"]
    head(settings_in(config), workers)
    assert growth.growth().unknown == (workers < 2)


def test_where_the_autoscaler_s_settings_cannot_be_seen_a_cluster_grows_step_by_step(head, monkeypatch):
    assert growth.growth() == Growth(unknown=True)
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}]
    monkeypatch.setattr(connect.ray, "nodes", lambda: nodes)
    assert connect.slots_to_come(1.0, 1.0) == 2
    monkeypatch.setattr(gpus, "gpus_now", lambda: 0.0)
    with pytest.raises(ConfigError, match="Set it to -1"):
        gpus.wanted_gpus(Config(), "10.0.0.1:6379")
    assert gpus.wanted_gpus(with_settings(Config(), {"sweep.gpus": 0.0}), "10.0.0.1:6379") == 0
    monkeypatch.setattr(gpus, "gpus_now", lambda: 1.0)
    assert gpus.wanted_gpus(Config(), "10.0.0.1:6379") == -1


def test_room_is_counted_by_machine_up_to_the_most_machines(monkeypatch):
    small, large = {"CPU": 8, "GPU": 1}, {"CPU": 48, "GPU": 4}
    monkeypatch.setattr(connect, "growth", lambda: Growth((small, small, large), 2))
    monkeypatch.setattr(connect.ray, "nodes", list)
    assert connect.slots_to_come(1.0, 1.0) == 5
    assert connect.slots_to_come(1.0, 2.0) == 2  # two GPUs of one machine each, not of two machines
    assert connect.slots_to_come(1.0, 1.0, {"a machine that is held"}) == 4
    assert connect.slots_to_come(1.0, 0.0, {"a machine that is held"}) == 56
    monkeypatch.setattr(connect.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 8.0}}])
    assert connect.slots_to_come(1.0, 1.0) == 8  # a head of ours with GPUs


DRIVER = """
import sys, time, ray
from raydd.cluster.claims import open_claims
from raydd.cluster.connect import slots_to_come
from raydd.cluster.gpus import wanted_gpus
from raydd.cluster.sharing import Shared
from raydd.config import Config
from raydd.settings import with_settings
from trainables.slot import Desk
address, home = sys.argv[1:]
ray.init(address, log_to_driver=False, logging_level=50)
print("seen", slots_to_come(1.0, 1.0), wanted_gpus(Config(), address))
config = with_settings(Config(), {"place.home": home, "place.device": "cpu", "sweep.gpus": 1.0, "sweep.together": 2})
desk = ray.remote(num_cpus=0)(Desk).remote(config, Shared("sweep", {}, open_claims(home)))
for number in range(4):
    ray.get(desk.seat.remote(str(number), {"number": number, "settings": {}}))
end = time.monotonic() + 120
while (gpus := ray.cluster_resources().get("GPU", 0.0)) < 2 and time.monotonic() < end:
    time.sleep(0.5)
print("seen", slots_to_come(1.0, 1.0), gpus)
"""


@pytest.mark.slow
def test_trials_that_want_slots_start_all_the_machines_of_a_cluster(tmp_path, monkeypatch):
    config = tmp_path / "cluster.yaml"
    config.write_text(yaml.safe_dump(CLUSTER))
    own = {**HEAD, "RAY_FAKE_CLUSTER": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    nodes = Nodes(tmp_path, f"--autoscaling-config={config}")
    try:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, nodes.address, str(tmp_path / "home")],
            env=os.environ | nodes.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        nodes.close()
    seen = [line for line in done.stdout.splitlines() if line.startswith("seen")]  # Ray prints there too
    assert seen == ["seen 2 -1.0", "seen 2 2.0"], done.stderr
