"""The quick checks before a command: all that is lacking at once, nothing on a machine that lacks nothing."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from raydd import device, preflight
from raydd.cli import main
from raydd.config import Config
from raydd.errors import ConfigError
from raydd.preflight import quick_checks, require_ready
from raydd.settings import with_settings
from raydd.store import Store


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return with_settings(Config(), {"place.home": str(tmp_path / "home")})


@pytest.mark.parametrize("command", ["run", "sweep", "compare"])
def test_nothing_is_said_where_nothing_is_lacking(config: Config, tmp_path: Path, command: preflight.Command):
    said: list[str] = []
    require_ready(config, command, said.append)
    assert said == []
    home = tmp_path / "home"
    assert [path for path in home.rglob("*") if path.is_file()] == []  # neither a probe is left nor a database made


def test_an_interrupted_check_leaves_no_probe_in_the_store(config: Config, tmp_path: Path, monkeypatch):
    def interrupt(*_: object) -> bytes:
        assert len(list((tmp_path / "home" / "store").iterdir())) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "content", interrupt)
    with pytest.raises(KeyboardInterrupt):
        require_ready(config, "run", lambda text: None)
    assert list((tmp_path / "home" / "store").iterdir()) == []


def test_all_that_is_lacking_is_told_at_once(config: Config):
    doomed = with_settings(
        config,
        {
            "place.device": "cuda:77",
            "data.reader": "flat-jsom",
            "encoders.image_weights": "/nowhere.pt",
            "place.study": "sqlite:////dev/null/studies.db",
            "sweep.gpus": 64.0,
        },
    )
    with pytest.raises(ConfigError) as error:
        require_ready(doomed, "sweep", lambda text: None)
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    for line, said in zip(
        lines, ("cuda:77", "'flat-json'", "there is no /nowhere.pt", "sweep.gpus is 64", "/dev/null"), strict=True
    ):
        assert said in line


def test_a_server_of_mlflow_that_is_away_is_to_be_known_and_no_more(config: Config):
    away = with_settings(config, {"place.mlflow": "http://me:secret@127.0.0.1:9"})
    said: list[str] = []
    require_ready(away, "sweep", said.append)
    assert len(said) == 1
    assert "127.0.0.1:9 does not answer" in said[0]
    assert "secret" not in said[0]


@pytest.mark.parametrize(
    ("address", "state"), [("none", "ok"), ("databricks://profile", "ok"), ("sqlite:////dev/null/mlflow.db", "warning")]
)
def test_an_address_of_mlflow_is_tried_where_that_can_be_done(config: Config, address: str, state: str):
    assert preflight._check_mlflow(with_settings(config, {"place.mlflow": address})).state == state


@pytest.mark.parametrize("setting", ["distill.loss", "experts.loss"])
def test_a_loss_of_one_s_own_is_tried_before_anything_is_encoded(config: Config, tmp_path: Path, setting: str):
    (tmp_path / "own.py").write_text("def LOSS(logits, similarity):\n    return logits.sum() / 0\n")
    own = with_settings(config, {setting: f"{tmp_path}/own.py:LOSS"})
    with pytest.raises(ConfigError, match=rf"{setting}.*own\.py"):
        require_ready(own, "run", lambda text: None)


@pytest.mark.parametrize(
    ("path", "status", "body", "state", "said"),
    [
        ("", 200, b'{"experiment": {"experiment_id": "1"}}', "ok", "can be reached"),
        ("/below", 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}', "ok", "can be reached"),
        ("", 401, b"who are you?", "ok", "can be reached"),
        ("", 404, b"nothing here", "warning", "get-by-name gives HTTP 404 without an answer of MLflow's"),
        ("", 200, b"[]", "warning", "get-by-name gives HTTP 200 without an answer of MLflow's"),
    ],
)
def test_a_server_that_is_not_mlflow_s_is_named(
    config: Config, path: str, status: int, body: bytes, state: str, said: str
):
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = f"{path}/api/2.0/mlflow/experiments/get-by-name?experiment_name=raydd"
            self.send_response(status if self.path == asked else 500)
            self.end_headers()
            self.wfile.write(body if self.path == asked else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://me:secret@127.0.0.1:{server.server_port}{path}"
        check = preflight._check_mlflow(with_settings(config, {"place.mlflow": address}))
        server.shutdown()
    assert check.state == state
    assert said in check.text
    assert "secret" not in check.text


@pytest.mark.parametrize("content", [b"", b"SQLite format 3, but no more than that" * 100])
def test_a_study_s_file_that_is_no_database_is_named_before_anything_is_computed(
    config: Config, tmp_path: Path, content: bytes
):
    file = tmp_path / "studies.db"
    file.write_bytes(content)
    study = with_settings(config, {"place.study": f"sqlite:///{file}"})
    if not content:  # as Optuna makes it
        require_ready(study, "sweep", lambda text: None)
        return
    with pytest.raises(ConfigError, match=r"not a database.*Check place.study"):
        require_ready(study, "sweep", lambda text: None)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a machine with NVIDIA's driver 550 and two GPUs."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    (tmp_path / "version").write_text("550.54.14\n")
    monkeypatch.setattr(device, "_DEVICES", tmp_path)
    monkeypatch.setattr(device, "_DRIVER", tmp_path / "version")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def test_gpus_that_torch_cannot_use_are_named_before_all_is_computed_on_the_cpu(
    config: Config, gpu: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.version, "cuda", None)
    said: list[str] = []
    require_ready(config, "run", said.append)
    assert said == [
        "GPUs: torch cannot use the 2 GPUs of this machine: NVIDIA driver 550.54.14, and torch "
        f"{torch.__version__} is a wheel without CUDA. Install a wheel with CUDA "
        "(https://pytorch.org/get-started/locally), or set place.device to cpu and sweep.gpus to 0."
    ]
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "is a wheel for CUDA 12.8. Install another wheel or a newer driver" in device.unused_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.unused_gpus() == ""


def test_gpus_that_the_driver_counts_and_torch_cannot_use_are_no_trial_s(config: Config, gpu: Path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # as NVML counts with a driver that is too old
    for asked in (1.0, -1.0):
        found = {check.name: check for check in quick_checks(with_settings(config, {"sweep.gpus": asked}), "sweep")}
        assert found["GPUs of trials"].state == "missing"
        assert "NVIDIA driver 550.54.14" in found["GPUs of trials"].text
    found = {check.name: check for check in quick_checks(config, "sweep")}
    assert found["GPUs of trials"].text == "sweep.gpus auto: the CPU"


def test_a_card_that_torch_s_wheel_does_not_match_is_named_before_the_encoder_is_loaded(
    config: Config, gpu: Path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # it is, and this torch cannot compute on it
    with pytest.raises(ConfigError, match=r"cannot compute on the device cuda: NVIDIA driver 550\.54\.14, and torch"):
        require_ready(config, "run", lambda text: None)
    require_ready(config, "sweep", lambda text: None)  # whose workers try, since this process must not use the GPU


def test_a_container_without_its_host_s_gpus_is_named(config: Config, gpu: Path):
    for number in range(2):
        (gpu / f"nvidia{number}").unlink()
    said: list[str] = []
    require_ready(config, "sweep", said.append)
    assert len(said) == 1
    assert "NVIDIA driver 550.54.14, but no GPU is passed into this container" in said[0]
    assert "Docker: --gpus all" in said[0]
    with pytest.raises(ConfigError, match="no GPU is passed into this container"):
        require_ready(with_settings(config, {"sweep.gpus": 1.0}), "sweep", said.append)


def test_a_run_that_was_told_to_use_the_cpu_hears_nothing_of_gpus(config: Config, gpu: Path):
    said: list[str] = []
    require_ready(with_settings(config, {"place.device": "cpu", "sweep.gpus": 0.0}), "sweep", said.append)
    assert said == []


@pytest.mark.parametrize(("megabytes", "warned"), [(64, True), (8000, False)])
def test_a_container_s_little_shared_memory_is_named_where_images_go_to_a_gpu(
    config: Config, monkeypatch: pytest.MonkeyPatch, megabytes: int, warned: bool
):
    usage = shutil.disk_usage("/")._replace(total=megabytes * 10**6)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = {check.name: check for check in quick_checks(config, "run")}
    assert ("shared memory" in found) is warned
    if warned:
        assert "/dev/shm holds 64 MB" in found["shared memory"].text
        assert "--shm-size 8g" in found["shared memory"].text
    alone = {check.name for check in quick_checks(with_settings(config, {"place.device": "cpu"}), "run")}
    assert "shared memory" not in alone


@pytest.mark.parametrize(("asked", "text"), [("auto", "auto: 2 GPUs"), (-1.0, "-1 of 2"), (0.0, "0: the CPU")])
def test_gpus_of_trials(config: Config, monkeypatch: pytest.MonkeyPatch, asked: float | str, text: str):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = {check.name: check for check in quick_checks(with_settings(config, {"sweep.gpus": asked}), "sweep")}
    assert found["GPUs of trials"].state == "ok"
    assert text in found["GPUs of trials"].text
    more = {check.name: check for check in quick_checks(with_settings(config, {"sweep.gpus": 3.0}), "sweep")}
    assert "sweep.gpus is 3, but torch sees 2 GPUs here" in more["GPUs of trials"].text


@pytest.mark.parametrize("command", ["run", "sweep", "compare"])
def test_a_command_that_lacks_something_ends_before_it_reads_the_data(
    config: Config, tiny_data: Path, capsys: pytest.CaptureFixture[str], command: str
):
    arguments = [command, "--data.reader", "flat-json", "--data.root", str(tiny_data)]
    arguments += ["--place.home", config.place.home, "--place.device", "cuda:77"]
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert "cannot compute on the device cuda:77" in told.err
    assert "checking images" not in told.err
