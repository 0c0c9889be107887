import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from raydd import checkup, preflight, secrets_hidden
from raydd.checkup import examine
from raydd.cli import main
from raydd.cluster.cluster_file import nodes_environment, versions_in
from raydd.config import Config
from raydd.errors import ConfigError
from raydd.preflight import Check, Command
from raydd.settings import load, with_settings

ENCODERS = """
import torch
from torch import nn
from raydd.data.encoders import ImageTower, TextTower

def image(config):
    return ImageTower(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), 32, 12, (0.5,) * 3, (0.5,) * 3)

def text(config, device):
    return TextTower(lambda captions: torch.zeros(len(captions), 4), 4)
"""


@pytest.fixture
def config(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A plan that this machine can run: tiny data, encoders of a few numbers."""
    (tmp_path / "doctors_encoders.py").write_text(ENCODERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return load(
        settings={
            "data.reader": "flat-json",
            "data.root": str(tiny_data),
            "data.name": "tiny",
            "encoders.image": "doctors_encoders:image",
            "encoders.text": "doctors_encoders:text",
            "distill.pairs": 6,
            "distill.minibatch": 4,
            "distill.rank": 3,
            "place.home": str(tmp_path / "home"),
        }
    )


def changed(config: Config, **settings: object) -> Config:
    from raydd.settings import with_settings

    return with_settings(config, {name.replace("__", "."): value for name, value in settings.items()})


def checks(config: Config, command: Command = "run", cluster: Path | None = None) -> dict[str, Check]:
    return {check.name: check for check in examine(config, command, cluster)}


def test_a_machine_that_lacks_nothing(config: Config):
    found = checks(config)
    assert {check.state for check in found.values()} == {"ok"}
    assert "12 train, 4 val, 4 test images, 40 captions" in found["data"].text
    assert found["image encoder"].text == "doctors_encoders:image: 32 pixels, 12 wide"


def test_a_trained_image_encoder_needs_no_image_features_but_room_for_its_weights(config: Config):
    trained = {"distill.protocol": "encoder", "distill.images": "pixels", "encoders.image": "tiny_encoders:image"}
    found = {protocol: checks(with_settings(config, settings)) for protocol, settings in (("A", trained), ("B", {}))}
    assert {check.state for check in found["A"].values()} == {"ok"}
    captions, views = 2 * 40 * 4, 2 * (12 * config.features.views + 8) * 12  # bytes, of numbers of two each
    assert found["A"]["disk"].text.startswith(f"{captions} bytes of features, ")
    assert found["B"]["disk"].text.startswith(f"{(captions + views) / 1e3:.1f} kB of features, ")
    assert "GB at most" in found["A"]["memory"].text


def test_the_probe_leaves_nothing_in_the_store(config: Config, tmp_path: Path):
    checks(config)
    assert {path.name for path in (tmp_path / "home" / "store").iterdir()} == {"pairs"}


@pytest.mark.parametrize(
    ("setting", "value", "name", "said"),
    [
        ("data__root", "/nowhere", "data", "/nowhere"),
        ("data__reader", "flat-jsom", "data", "Did you mean 'flat-json'?"),
        ("encoders__image", "efficientnet", "image encoder", "efficientnet-lite0"),
        ("encoders__text", "minilm2", "text encoder", "Did you mean 'minilm'?"),
        ("encoders__image_weights", "/nowhere.pt", "image encoder", "there is no /nowhere.pt"),
        ("place__store", "/dev/null/store", "store", "cannot be written"),
        ("place__home", "/dev/null/home", "store", "is a file, not a folder. Give another path"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do_and_stops_no_other_check(
    config: Config, setting: str, value: str, name: str, said: str
):
    found = checks(changed(config, **{setting: value}))
    assert found[name].state == "missing"
    assert said in found[name].text
    assert found["python"].state == "ok"
    assert found["disk"].state == found["memory"].state == "warning"
    assert name in found["disk"].text


def test_a_device_that_is_not_there(config: Config):
    assert checks(changed(config, place__device="cuda:77"))["device"].state == "missing"


def test_a_gpu_is_tried_for_a_sweep_too_unless_trials_use_none(config: Config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # and this torch cannot compute on one
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "cannot compute on the device cuda" in checks(config, "sweep")["device"].text
    assert checks(changed(config, sweep__gpus=0.0), "sweep")["device"].state == "ok"


def test_weights_that_are_not_there_are_named_beside_a_device_that_is_not_there(config: Config):
    found = checks(changed(config, place__device="cuda:77", encoders__image_weights="/nowhere.pt"))
    assert "there is no /nowhere.pt" in found["encoders"].text
    assert "cuda:77" in found["image encoder"].text


def test_a_disk_that_is_too_small(config: Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    found = checks(config)["disk"]
    assert found.state == "missing"
    assert "Make room" in found.text


def test_memory_is_measured_against_what_is_free_and_what_there_is(config: Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkup, "_machine_memory", lambda: (1e8, 1e12))
    assert checks(config)["memory"].state == "warning"
    monkeypatch.setattr(checkup, "_machine_memory", lambda: (1e8, 1e8))
    assert checks(config)["memory"].state == "missing"


def test_a_container_limits_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(checkup, "_CGROUP_LIMIT", limit)
    assert checkup._machine_memory()[1] == psutil.virtual_memory().total
    limit.write_text("max\n")
    assert checkup._machine_memory()[1] == psutil.virtual_memory().total
    limit.write_text("1000000\n")
    assert checkup._machine_memory() == (1_000_000, 1_000_000)


def test_a_run_can_go_without_ray(config: Config, monkeypatch: pytest.MonkeyPatch):
    real = importlib.import_module

    def without_ray(name: str, package: str | None = None):
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without_ray)
    found = checks(config)["ray"]
    assert found.state == "warning"
    assert "pip install ray" in found.text


def test_the_exit_code_says_whether_the_run_can_go(tiny_data: Path, config: Config, capsys: pytest.CaptureFixture[str]):
    arguments = [f"--{name}={value}" for name, value in _given(config).items()]
    assert main(["doctor", *arguments]) == 0
    assert "The run can start." in capsys.readouterr().out
    assert main(["doctor", *arguments, "--data.name", "huge"]) == 1
    assert "The run cannot start: data." in capsys.readouterr().out


def _given(config: Config) -> dict[str, str]:
    from raydd.settings import flatten

    default = flatten(Config())
    return {name: str(value) for name, value in flatten(config).items() if value != default[name]}


def test_what_a_sweep_needs_is_looked_at_for_a_sweep_alone(config: Config, tmp_path: Path):
    (tmp_path / "own.py").write_text("def space(trial):\n    return {'distill.pears': 3}\n")
    doomed = {
        "sweep.space": f"{tmp_path}/own.py:space",
        "sweep.gpus": 1.0,
        "place.study": "postgresql://raydd:secret@127.0.0.1:9/raydd",
        "place.mlflow": "http://127.0.0.1:9",
    }
    assert {check.state for check in checks(with_settings(config, doomed)).values()} == {"ok"}
    found = checks(with_settings(config, doomed), "sweep")
    lacking = {name for name, check in found.items() if check.state == "missing"}
    assert lacking == {"space", "GPUs of trials", "study"}
    assert "Did you mean 'distill.pairs'?" in found["space"].text
    assert "sweep.gpus is 1, but" in found["GPUs of trials"].text
    assert "postgresql://raydd:***@127.0.0.1:9/raydd cannot be opened" in found["study"].text
    assert "secret" not in found["study"].text
    assert found["MLflow"].state == "warning"
    assert "http://127.0.0.1:9 does not answer" in found["MLflow"].text
    assert found["disk"].state == found["memory"].state == "ok"


def test_pairs_are_held_against_the_training_images_as_the_planned_command_takes_them(config: Config, tmp_path: Path):
    (tmp_path / "own.py").write_text("def space(trial):\n    return {'distill.pairs': 13}\n")
    assert "distill.pairs is 13, but train has 12 images" in checks(changed(config, distill__pairs=13))["pairs"].text
    space = changed(config, sweep__space=f"{tmp_path}/own.py:space")
    assert checks(space)["pairs"].state == "ok"
    assert checks(space, "sweep")["pairs"].state == "missing"
    assert (
        checks(changed(config, compare__pairs=(6, 12)), "compare")["pairs"].state == "missing"
    )  # selections: one more
    assert checks(changed(config, compare__pairs=(6, 11)), "compare")["pairs"].state == "ok"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"compare.methods": ("random", "repblent")}, "Did you mean 'repblend'?"),
        ({"compare.methods": ("own.py:METHOD",)}, "own.py"),
        ({"compare.data": ("nowhere.yaml",)}, "nowhere.yaml"),
    ],
)
def test_rows_that_cannot_be_made_are_named_before_a_comparison(config: Config, settings: dict[str, object], said: str):
    found = checks(with_settings(config, settings), "compare")
    assert found["rows"].state == "missing"
    assert said in found["rows"].text


def test_each_data_set_of_a_comparison_is_looked_at(config: Config, tmp_path: Path, tiny_data: Path):
    files = []
    for name, root in (("tiny", tiny_data), ("away", tmp_path / "nowhere")):
        files.append(str(tmp_path / f"{name}.yaml"))
        Path(files[-1]).write_text(f"data: {{name: {name}, root: {root}}}\n")
    compared = {
        "compare.data": tuple(files),
        "compare.pairs": (6,),
        "compare.methods": ("random", "mtt-vl"),
        "compare.trials": 2,
    }
    found = checks(with_settings(config, compared), "compare")
    assert found["rows"].text == "6, and 2 of them are tuned by 2 trials each"
    assert found["data of tiny"].state == found["pairs of tiny"].state == "ok"
    assert found["data of away"].state == "missing"
    assert "pairs of away" not in found


@pytest.mark.parametrize(
    ("text", "state", "said"),
    [
        ("image: rayproject/ray:{ray}-py311-gpu", "ok", "Python 3.11 there"),
        ("rayVersion: {ray}", "ok", "Python unknown there"),
        ("provider: {{type: local}}", "ok", "names no version of Ray"),
        ("image: rayproject/ray:2.9.0-py311-gpu", "missing", "starts Ray 2.9.0, but this machine has Ray"),
        ("image: rayproject/ray:{ray}-py310", "missing", "starts Python 3.10, but raydd needs 3.11"),
        ("image: REGISTRY/raydd:2.9.0", "missing", "starts Ray 2.9.0, but this machine has Ray"),
        ("a: [{{image_id: 'docker:rayproject/ray:2.9.0'}}]", "missing", "starts Ray 2.9.0"),
        ("image: rayproject/ray:{ray}-py311 # before: rayproject/ray:2.9.0", "ok", "Python 3.11 there"),
        ("containers: [{{image: busybox:1.36.1}}]", "ok", "names no version of Ray"),
        ("image: [", "missing", "is not YAML"),
    ],
)
def test_a_cluster_s_file_is_held_against_the_versions_here(
    config: Config, tmp_path: Path, text: str, state: str, said: str
):
    file = tmp_path / "gpu.yaml"
    file.write_text(text.format(ray=importlib.metadata.version("ray")))
    found = checks(config, cluster=file)["cluster"]
    assert (found.state, said in found.text) == (state, True)


def test_the_files_of_the_repository_start_a_ray_of_one_version():
    folder = Path(checkup.__file__).parents[1] / "cluster"
    told = [versions_in(folder / name)[0] for name in ("gpu.yaml", "sky.yaml", "rayjob.yaml")]
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == 1


def test_a_process_of_another_python_cannot_join(config: Config, tmp_path: Path):
    other = "310" if sys.version_info[:2] == (3, 99) else "399"
    file = tmp_path / "gpu.yaml"
    file.write_text(f"image: rayproject/ray:{importlib.metadata.version('ray')}-py{other}")
    assert checks(config, cluster=file)["cluster"].state == "ok"  # the driver runs on the head
    assert "cannot join it" in checks(changed(config, place__ray="10.0.0.1:6379"), cluster=file)["cluster"].text


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch) -> Path:
    """A cluster's file, with the environment of its nodes next to it."""
    for name in ("RAYDD_STORE", "RAYDD_STUDY", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "gpu.yaml").write_text("provider: {type: aws}\n")
    (folder / "raydd.env").write_text(
        "# RAYDD_STUDY=nothing\nRAYDD_STORE=s3://nobodys/raydd\nRAYDD_STUDY='postgresql+psycopg://me:x@127.0.0.1:9/raydd'"
        "\nMLFLOW_TRACKING_URI=http://127.0.0.1:5000\nAWS_ENDPOINT_URL=http://127.0.0.1:9\nRAY_ADDRESS=auto\n"
        "AWS_ACCESS_KEY_ID=x\nAWS_SECRET_ACCESS_KEY=x\nAWS_REGION=x\n"
        "PATH=/nowhere:$PATH\n"
    )
    return folder / "gpu.yaml"


@pytest.mark.slow
def test_a_cluster_s_places_are_those_of_its_nodes(config: Config, cluster: Path, monkeypatch):
    monkeypatch.setattr(checkup, "STORE_SECONDS", 0.1)
    monkeypatch.setattr(preflight, "STORE_SECONDS", 0.1)
    path = os.environ["PATH"]
    with nodes_environment(cluster):
        assert os.environ["PATH"] == path
        found = checks(changed(config, sweep__gpus=-1.0, place__store="", place__mlflow=""), "sweep", cluster)
    assert "RAYDD_STORE" not in os.environ
    assert found["store"].state == found["study"].state == "warning"
    assert "s3://nobodys/raydd" in found["store"].text
    assert "127.0.0.1:9/raydd" in found["study"].text
    assert "Nodes may reach it" in found["study"].text
    assert found["MLflow"].text == "served by the head"
    assert found["GPUs of trials"].text == "sweep.gpus -1.0, of the cluster"
    assert not found.keys() & {"device", "memory"}


def test_a_cluster_without_places_of_its_own_keeps_them_on_its_head(config: Config, cluster: Path, monkeypatch):
    (cluster.parent / "raydd.env").write_text("RAYDD_STORE=/of/all/nodes\nRAYDD_STUDY=\n")
    with nodes_environment(cluster):
        found = checks(changed(config, sweep__gpus=1.0, place__mlflow=""), "sweep", cluster)
    assert found["store"].text == "a folder of the nodes, not checked here"
    assert found["study"].text == "SQLite on the head"
    assert found["GPUs of trials"].state == "ok"
    assert "environment" not in found
    (cluster.parent / "raydd.env").unlink()
    with nodes_environment(cluster):
        assert "there is no" in checks(config, "sweep", cluster)["environment"].text


def test_values_of_the_nodes_environment_are_those_that_a_shell_reads(cluster: Path):
    (cluster.parent / "raydd.env").write_text(
        "A='pa$word'\nB=pa\\$word\nC=\"it's pa\\$word\"\n"
        "D=$HOME/x\nE=\"it's $HOME\"\nF='$A'$A\nG=\"a'b\" H='c$d'\nI=\"\\\\$HOME\"\n"
    )
    with nodes_environment(cluster):
        found = {name: os.environ.get(name) for name in "ABCDEFGHI"}
    done = subprocess.run(
        ["sh", "-c", "set -a; . ./raydd.env; env"],
        cwd=cluster.parent,
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    read = dict(line.split("=", 1) for line in done.stdout.splitlines())
    of_variables = {"D", "E", "F", "I"}  # which hold on a node alone
    assert found == {name: None if name in of_variables else read[name] for name in "ABCDEFGHI"}


def test_secrets_of_the_nodes_environment_are_not_shown(config: Config, cluster: Path, monkeypatch, capsys):
    monkeypatch.setattr(secrets_hidden, "_known_secrets", set())
    secrets = ("pl$nted-1", "planted-2", "planted-3")
    (cluster.parent / "raydd.env").write_text(
        f"PGPASSWORD='{secrets[0]}'\nRAY_AUTH_TOKEN={secrets[1]}\nRAYDD_STUDY=postgresql://me:{secrets[2]}@127.0.0.1:9/x\n"
    )

    def fail(*_: object) -> None:
        raise OSError(f"refused: {os.environ['PGPASSWORD']} {os.environ['RAY_AUTH_TOKEN']} {os.environ['RAYDD_STUDY']}")

    monkeypatch.setattr(preflight, "_connect", fail)
    monkeypatch.setattr(preflight, "_check_reader", fail)
    given = {"place.home": config.place.home, "data.root": config.data.root, "data.reader": "flat-json"}
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    assert main(["doctor", "sweep", "--cluster", str(cluster), *flags]) == 1
    said = capsys.readouterr()
    assert said.out.count("***") >= 4
    assert not any(secret in said.out + said.err for secret in secrets)


def test_an_environment_that_no_shell_reads_is_refused(cluster: Path):
    (cluster.parent / "raydd.env").write_text("RAYDD_STORE='s3://open\n")
    with pytest.raises(ConfigError, match=r"raydd\.env cannot be read by a shell"), nodes_environment(cluster):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(config: Config, tmp_path: Path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert checks(changed(config, place__home=str(locked / "home")))["store"].state == "missing"
