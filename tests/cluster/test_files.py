"""The cluster files pass Ray's own validation, name what is there, agree on versions, and hold no secret."""

import re
import secrets
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from raydd.config import Config
from raydd.settings import load
from raydd.sweep import command_line

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
CLUSTERS = ("gpu.yaml", "gcp.yaml", "local.yaml")
VERSIONED = ("gpu.yaml", "gcp.yaml", "rayjob.yaml", "kueue.yaml", "sky.yaml", "Dockerfile")
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
    texts = [(FOLDER / name).read_text(encoding="utf-8") for name in VERSIONED]
    versions = {
        version for text in texts for version in re.findall(r"(?:ray:|rayVersion: |raydd:)(\d+\.\d+\.\d+)", text)
    }
    assert len(versions) == 1


@pytest.mark.parametrize("name", ["gpu.yaml", "gcp.yaml"])
def test_spot_workers_come_and_go_and_the_head_takes_no_trial(name: str):
    nodes = read(name)["available_node_types"]
    assert nodes["head"]["resources"] == {"CPU": 0}
    assert nodes["worker"]["min_workers"] == 0
    config = nodes["worker"]["node_config"]
    assert config.get("InstanceMarketOptions") == {"MarketType": "spot"} or config["scheduling"][0]["preemptible"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_head_restores_its_databases_before_ray_starts_and_then_keeps_them(name: str):
    restore, keep, start = (
        next(number for number, command in enumerate(read(name)["head_start_ray_commands"]) if word in command)
        for word in ("head.py restore", "setsid python ~/raydd-project/cluster/head.py", "ray start --head")
    )
    assert restore < keep < start


def test_the_clouds_differ_in_their_machines_alone():
    amazon, google = read("gpu.yaml"), read("gcp.yaml")
    own = {"provider", "available_node_types"}
    assert {name for name in amazon if amazon[name] != google[name]} == own


def test_kueue_s_job_waits_in_a_queue_for_a_fixed_number_of_workers_and_is_the_same_else():
    plain, queued = read("rayjob.yaml"), read("kueue.yaml")
    labels = queued["metadata"].pop("labels")
    assert set(labels) == {"kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"}
    assert queued["spec"]["shutdownAfterJobFinishes"]  # else Kueue takes no RayJob
    for name in ("enableInTreeAutoscaling", "autoscalerOptions"):
        assert name not in queued["spec"]["rayClusterSpec"]
        del plain["spec"]["rayClusterSpec"][name]
    for job in (plain, queued):
        (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        replicas = [group.pop(name) for name in ("replicas", "minReplicas", "maxReplicas")]
    assert len(set(replicas)) == 1
    assert plain == queued


def test_the_task_for_skypilot_has_the_words_of_its_schema():
    """Those of SkyPilot 0.14 that the file may use: its package brings sixty others."""
    task = read("sky.yaml")
    assert set(task) <= {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup", "run"}
    words = {"accelerators", "cpus", "memory", "disk_size", "image_id", "use_spot", "infra", "job_recovery", "ports"}
    assert set(task["resources"]) <= words
    assert all(value is None or isinstance(value, str) for value in {**task["envs"], **task["secrets"]}.values())
    subprocess.run(["bash", "-n", "-c", task["setup"] + task["run"]], check=True)


@pytest.mark.parametrize("rank", [0, 1])
def test_skypilot_s_script_starts_ray_on_each_node_and_the_first_node_runs_the_sweep(rank: int, tmp_path: Path):
    """By stand-ins for the script and for `python`, which say where they run and what they were given."""
    script, python = tmp_path / "sky_templates" / "ray" / "start_cluster", tmp_path / "python"
    script.parent.mkdir(parents=True)
    script.write_text('#!/bin/sh\necho "starts Ray"\n')
    python.write_text('#!/bin/sh\necho "$RAY_ADDRESS" "$@"\n')
    for file in (script, python):
        file.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "SKYPILOT_NODE_RANK": str(rank)}
    command = ["bash", "-euc", read("sky.yaml")["run"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    driver = "127.0.0.1:6379 cluster/head.py run raydd sweep --config cluster/sweep.yaml"
    assert done.stdout.splitlines() == ["starts Ray", *([driver] if rank == 0 else [])]


def test_ray_takes_the_command_that_slurm_gives_it_on_all_nodes(tmp_path: Path):
    """By stand-ins for Slurm's commands and a `ray` that says what it was given and runs the command."""
    stand_ins = {
        "ray": 'printf "%s\\n" "$@"; [ -n "$RAY_FAILS" ] && exit 0; mkdir "$RAYDD_HOME/cache"\n'
        'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
        "python": 'echo "runs $*"',
        "scontrol": "echo one; echo two",
        "srun": 'shift; exec "$@"',
    }
    for name, script in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "16"}
    (tmp_path / "cluster").mkdir()
    for name in ("slurm.sh", "raydd.env.example"):
        (tmp_path / "cluster" / name.removesuffix(".example")).write_text((FOLDER / name).read_text(encoding="utf-8"))
    job = secrets.token_hex(8)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "USER": "me", "SLURM_GPUS_ON_NODE": "4", **slurm}

    def submitted(restarts: int, **more: str) -> subprocess.CompletedProcess[str]:
        more |= {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restarts)}
        command = ["bash", "cluster/slurm.sh", "--sweep.trials", "200"]
        return subprocess.run(
            command, cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=False
        )

    homes = [Path(f"/tmp/raydd-me-{job}-{restarts}") for restarts in range(3)]
    try:
        done = submitted(0)
        assert stat.S_IMODE(homes[0].stat().st_mode) == 0o700
        assert not (homes[0] / "cache").exists()  # a bucket's files, up to place.cache_gb of them, would fill /tmp
        assert submitted(1).returncode == 0
        refused = submitted(0)  # the folder is there already, and may be another user's
        assert refused.returncode != 0
        assert not refused.stdout
        not_started = submitted(2, RAY_FAILS="yes")  # Ray's command ends with 0 then
        assert not_started.returncode == 1
        assert "Ray did not start" in not_started.stderr
    finally:
        for home in homes:
            shutil.rmtree(home, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    given = done.stdout.splitlines()
    start = given[1 : given.index("--")]
    assert given[0] == "symmetric-run"
    assert {"one:6379", "2", "--num-gpus=4"} <= set(start)
    curate_and_validate_ray_start_args(start)
    assert given[-1] == "runs cluster/head.py run raydd sweep --config cluster/sweep.yaml --sweep.trials 200"


@pytest.mark.parametrize("name", ["rayjob.yaml", "kueue.yaml"])
def test_the_job_for_kubernetes_runs_the_sweep_with_a_token_and_secrets_from_outside(name: str):
    job = read(name)
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


@pytest.mark.parametrize("script", ["install.sh", "slurm.sh"])
def test_the_scripts_are_shell(script: str):
    subprocess.run(["bash", "-n", FOLDER / script], check=True)


def test_the_script_reads_the_settings_beside_it_unless_it_is_given_others(tmp_path: Path):
    beside = tmp_path / "sweep.yaml"
    assert command_line(["--sweep.trials", "3"], beside) == ["sweep", "--sweep.trials", "3"]
    beside.write_text("sweep: {trials: 5}\n")
    assert command_line(["--sweep.trials", "3"], beside) == ["sweep", "--config", str(beside), "--sweep.trials", "3"]
    assert command_line(["--config", "mine.yaml"], beside) == ["sweep", "--config", "mine.yaml"]
    assert command_line(["--config=mine.yaml"], beside) == ["sweep", "--config=mine.yaml"]
