"""The cluster files pass Ray's own validation, name what is there, agree on versions, and hold no secret."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from raydd.config import Config
from raydd.settings import load
from raydd.sweep import command_line

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
CLUSTERS = ("gpu.yaml", "local.yaml")
SECRETS = "cluster/raydd.env"


def read(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_takes_the_file(name: str):
    prepared = prepare_config(read(name))
    validate_config(prepared)
    assert any("install.sh head" in command for command in prepared["head_setup_commands"])
    assert any("install.sh worker" in command for command in prepared["worker_setup_commands"])


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_is_mounted_is_there_and_no_folder_hides_the_package(name: str):
    mounts = read(name)["file_mounts"]
    assert "~/raydd" not in mounts  # the script runs in ~, where it would be taken for the package
    assert all((ROOT / local).exists() for local in mounts.values())
    assert subprocess.run(["git", "check-ignore", "-q", SECRETS], cwd=ROOT, check=False).returncode == 0


def test_one_version_of_ray_everywhere():
    texts = [(FOLDER / name).read_text(encoding="utf-8") for name in ("gpu.yaml", "rayjob.yaml", "Dockerfile")]
    versions = {
        version for text in texts for version in re.findall(r"(?:ray:|rayVersion: |raydd:)(\d+\.\d+\.\d+)", text)
    }
    assert len(versions) == 1


def test_spot_workers_come_and_go_and_the_head_takes_no_trial():
    nodes = read("gpu.yaml")["available_node_types"]
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert nodes["worker"]["min_workers"] == 0
    assert nodes["worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_the_job_for_kubernetes_runs_the_sweep_with_a_token_and_secrets_from_outside():
    job = read("rayjob.yaml")
    assert job["kind"] == "RayJob"
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [container for group in groups for container in group["template"]["spec"]["containers"]]
    assert all(container["envFrom"] == [{"secretRef": {"name": "raydd-env"}}] for container in containers)


def test_the_settings_beside_the_script_are_settings():
    config = load(FOLDER / "sweep.yaml")
    assert config.sweep.gpus == -1
    assert config.place == Config().place  # places come from the environment


def test_the_example_of_the_environment_has_placeholders_alone():
    text = (FOLDER / "raydd.env.example").read_text(encoding="utf-8")
    values = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert {"RAYDD_STORE", "RAYDD_STUDY", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_AUTH_MODE"} <= set(values)
    assert values["RAY_AUTH_TOKEN"] == ""
    shell = subprocess.run(["bash", "-euc", "set -a; . cluster/raydd.env.example; env"], cwd=ROOT, capture_output=True)
    assert shell.returncode == 0


@pytest.mark.parametrize("script", ["install.sh", "spot.sh"])
def test_the_scripts_are_shell(script: str):
    subprocess.run(["bash", "-n", FOLDER / script], check=True)


def test_the_script_reads_the_settings_beside_it_unless_it_is_given_others(tmp_path: Path):
    beside = tmp_path / "sweep.yaml"
    assert command_line(["--sweep.trials", "3"], beside) == ["sweep", "--sweep.trials", "3"]
    beside.write_text("sweep: {trials: 5}\n")
    assert command_line(["--sweep.trials", "3"], beside) == ["sweep", "--config", str(beside), "--sweep.trials", "3"]
    assert command_line(["--config", "mine.yaml"], beside) == ["sweep", "--config", "mine.yaml"]
    assert command_line(["--config=mine.yaml"], beside) == ["sweep", "--config=mine.yaml"]
