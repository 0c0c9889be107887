"""`ray up`, `ray submit cluster/local.yaml raydd/sweep.py`, `ray down`, as a user gives them, by ssh on loopback."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from machines import Machine, free_port
from mlflow import MlflowClient

from raydd.store import Store

ROOT = Path(__file__).parents[2]
SETTINGS = """\
data: {{reader: flat-json, root: {data}}}
encoders: {{image_weights: "random:0", image_size: 64, text_weights: "random:0"}}
features: {{views: 1}}
experts: {{count: 2, batch_size: 8, width: 16}}
distill: {{pairs: 6, minibatch: 4, rank: 3, images: features, steps: 10, student_steps: 3, target_epochs: 2}}
students: {{epochs: 3}}
evaluate: {{seeds: 2}}
sweep: {{name: submitted, space: {space}, trials: 8, pruner: none, drawn_again: 0, finalists: 1}}
"""
SPACE = """
def small(trial):
    trial.suggest_float("distill.image_lr", 0.01, 0.1, log=True)
    return {}
"""


@pytest.fixture
def checkout(machine: Machine, tiny_data: Path, tmp_path: Path) -> Path:
    """A checkout in which the user has filled in the files of cluster/."""
    root = tmp_path / "checkout"
    root.mkdir()
    for item in ("raydd", "trainables", "search_spaces"):
        (root / item).symlink_to(ROOT / item)
    for item in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / item, root / item)
    folder = root / "cluster"
    folder.mkdir()
    for name in ("install.sh", "head.py"):
        shutil.copy(ROOT / "cluster" / name, folder / name)
    cluster = yaml.safe_load((ROOT / "cluster/local.yaml").read_text())
    cluster["provider"]["head_ip"] = "127.0.0.1"
    proxy = f"{sys.executable} {ROOT / 'tests/tcp.py'} 127.0.0.1 {machine.port}"
    cluster["auth"] = {"ssh_user": "root", "ssh_private_key": str(machine.key), "ssh_proxy_command": proxy}
    # Ray's own: a head that stays on loopback, beside whatever else runs on this machine.
    start = cluster["head_start_ray_commands"][-1].replace("--port=6379", f"--port={free_port()}")
    cluster["head_start_ray_commands"][-1] = (
        f"{start} --node-ip-address=127.0.0.1 --num-cpus=2 --object-store-memory=100000000"
    )
    (folder / "local.yaml").write_text(yaml.safe_dump(cluster))
    space = tmp_path / "space.py"
    space.write_text(SPACE)
    settings = SETTINGS.format(data=tiny_data, space=f"{space}:small")
    (folder / "sweep.yaml").write_text(settings.replace("submitted", "before_the_edit"))
    here = {
        "PATH": f"{machine.venv}/bin:$PATH",
        "RAYDD_STORE": tmp_path / "store",
        "RAYDD_STUDY": f"sqlite:///{tmp_path}/studies.db",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "RAY_ADDRESS": "auto",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": machine.home.parent / "ray",
    }
    (folder / "raydd.env").write_text("".join(f"{name}={value}\n" for name, value in here.items()))
    return root


@pytest.mark.slow
def test_a_sweep_is_submitted_to_a_machine_that_has_nothing_of_raydd(checkout: Path, machine: Machine, tmp_path: Path):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY")},
        "RAY_TMPDIR": str(tmp_path / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def ray(command: str) -> str:
        done = subprocess.run(
            ["ray", *command.split()], cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        output = done.stdout + done.stderr
        print(f"$ ray {command}\n{output}")
        assert done.returncode == 0, output
        return output

    ray("up -y --no-config-cache cluster/local.yaml")
    try:
        settings = checkout / "cluster/sweep.yaml"
        settings.write_text(settings.read_text().replace("before_the_edit", "submitted"))
        ray("rsync-up cluster/local.yaml cluster/sweep.yaml ~/raydd-project/cluster/sweep.yaml")
        shown = ray("submit --no-config-cache cluster/local.yaml raydd/sweep.py -- --sweep.trials 2")
        assert "2 to run of 2" in shown
    finally:
        ray("down -y cluster/local.yaml")
    result = json.loads((machine.home / ".raydd/sweeps/submitted/result.json").read_text())
    assert len(result["trials"]["complete"]) == 2
    study = optuna.load_study(study_name="submitted", storage=f"sqlite:///{tmp_path}/studies.db")
    assert study.best_value == result["best"]["cheap"]
    store = Store(tmp_path / "store")
    assert len([name for name in store.names("synthetic") if name.endswith("manifest.json")]) == 2
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("raydd").experiment_id])
    assert sum("raydd.trial" in run.data.tags for run in runs) == 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert (machine.home / "raydd-versions.txt").read_text().count("ray==") == 1
