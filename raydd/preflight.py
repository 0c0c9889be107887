"""Quick checks of what a command needs, made before any expensive work. All missing things are reported together.

`raydd run`, `sweep` and `compare` make these checks at their start. `raydd doctor` makes these checks and slower ones.
"""

import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from raydd.cluster.environment import ray_address
from raydd.config import Config, PlaceConfig
from raydd.device import device_of, require_one_device, sees_gpu, unused_gpus
from raydd.errors import ConfigError, RayddError
from raydd.place import home, mlflow_address, open_store, sqlite_file, study_address, try_database, unopened_study
from raydd.plain_files import require_writable_folder
from raydd.secrets_hidden import hidden, hide_password
from raydd.store.verify import PROBE
from raydd.terminal.text import count_of

Command = Literal["run", "sweep", "compare"]
State = Literal["ok", "warning", "missing"]
_TRIED_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")  # of addresses of MLflow
_EXPERIMENT_PATH = "api/2.0/mlflow/experiments/get-by-name"
_ANSWER_SECONDS = 5  # time limit for a database or a server to answer
_SHARED_MEMORY, _SHARED_BYTES = Path("/dev/shm"), 10**9  # of images that wait for the GPU
STORE_SECONDS = 20.0  # how long requests to a failing bucket are repeated; a run waits longer


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: State
    """ok, warning: the command can run, but the user should know; missing: the command cannot run."""
    text: str
    """What was found; if that is not enough, what to do."""


def require_ready(config: Config, command: Command, warn: Callable[[str], None]) -> None:
    """Make the quick checks of a command, and report warnings.

    Args:
        config: as the user gave it.
        command: the command that is about to run.
        warn: shows a warning.

    Raises:
        ConfigError: something is missing; the message has one line for each missing thing.
    """
    checks = list(quick_checks(config, command))
    for check in checks:
        if check.state == "warning":
            warn(f"{check.name}: {check.text}")
    if missing := [check for check in checks if check.state == "missing"]:
        raise ConfigError("\n".join(check.text for check in missing))


def quick_checks(config: Config, command: Command) -> Iterator[Check]:
    """Yield the checks that need neither the data nor the encoders."""
    yield guarded("device", lambda: _check_device(config, command))
    automatic = config.place.device == "auto" or (command != "run" and config.sweep.gpus == "auto")
    if automatic and (text := unused_gpus()):
        yield Check("GPUs", "warning", text)
    if text := _little_shared_memory(config):
        yield Check("shared memory", "warning", text)
    yield guarded("store", lambda: _check_store(config))
    yield guarded("reader", lambda: _check_reader(config))
    yield guarded("encoders", lambda: _check_encoders(config))
    yield guarded("losses", lambda: _check_losses(config))
    if command == "run":
        return
    yield guarded("GPUs of trials", lambda: _check_trial_gpus(config))
    if command == "sweep" or config.compare.trials:
        yield guarded("study", lambda: _check_study(config))
    yield _check_mlflow(config)


def guarded(name: str, check: Callable[[], str]) -> Check:
    """Make a check; its error becomes the text that says what is missing."""
    try:
        return Check(name, "ok", check())
    except (RayddError, OSError, ValueError, ImportError) as error:
        kind = "" if isinstance(error, RayddError) else f"{type(error).__name__}: "
        return Check(name, "missing", kind + " ".join(hidden(str(error)).split()))


def _check_device(config: Config, command: Command) -> str:
    """Check the device; for a sweep or a comparison, Ray's workers try theirs, and this process takes no GPU memory."""
    return config.place.device if command != "run" and config.place.device == "auto" else device_of(config.place)


def _little_shared_memory(config: Config) -> str:
    """Say that processes that decode images for a GPU may end for lack of shared memory; empty if there is enough."""
    import torch

    if config.place.device == "cpu" or not torch.cuda.is_available() or not _SHARED_MEMORY.is_dir():
        return ""
    size = shutil.disk_usage(_SHARED_MEMORY).total
    if size >= _SHARED_BYTES:
        return ""
    return (
        f"{_SHARED_MEMORY} holds {size / 1e6:.0f} MB, and processes that decode images for the GPU pass them through "
        "it: they may end with Bus error. For a container, give Docker --shm-size 8g."
    )


def _check_store(config: Config) -> str:
    """Write, read and delete a small file in the store."""
    try:
        store = open_store(config.place, patience=STORE_SECONDS)
        name, content = f"{PROBE}{secrets.token_hex(8)}", secrets.token_bytes(16)
        try:
            store.write(name, content)
            matches = store.content(name) == content
        except KeyboardInterrupt:  # other errors leave no store that could be asked to delete it
            store.remove(name)
            raise
        store.remove(name)
    except (OSError, ValueError) as error:
        address = config.place.store or os.environ.get("RAYDD_STORE") or home(config.place)
        raise ConfigError(
            f"{hide_password(str(address))} cannot be written ({hidden(str(error))}). "
            "Set place.store and place.home to writable places."
        ) from error
    if not matches:
        raise ConfigError(f"{store.root} returns other bytes than were written. Set place.store to another place.")
    return f"{store.root} can be written and read"


def _check_reader(config: Config) -> str:
    from raydd.data.readers import find_reader

    find_reader(config.data.reader)
    return config.data.reader


def _check_encoders(config: Config) -> str:
    from raydd.data.encoders import image_identity, text_identity

    return f"{image_identity(config.encoders)}, {text_identity(config.encoders)}"


def _check_losses(config: Config) -> str:
    """Try the losses on a small example; a user's own loss may fail."""
    from raydd.distill.losses import find_loss

    names = {"distill.loss": config.distill.loss, "experts.loss": config.experts.loss}
    for setting, name in names.items():
        find_loss(name, setting)
    return ", ".join(dict.fromkeys(names.values()))


def _check_trial_gpus(config: Config) -> str:
    """Check the GPUs of this machine. The machines of a cluster are checked when the command has joined the cluster."""
    import torch

    require_one_device(config)
    requested, available = config.sweep.gpus, torch.cuda.device_count() if sees_gpu() else 0
    if ray_address(config.place.ray) != "local":
        return f"sweep.gpus {requested}, of the cluster"
    if requested == "auto":
        gpus = available if config.place.device != "cpu" else 0
        return f"sweep.gpus auto: {count_of(gpus, 'GPU')}" if gpus else "sweep.gpus auto: the CPU"
    if not requested:
        return "sweep.gpus 0: the CPU"
    if not available:
        try:
            device_of(PlaceConfig(device="cuda"))
        except ConfigError as error:
            raise ConfigError(f"sweep.gpus is {requested:g}, but {error}") from error
    if requested > available:
        raise ConfigError(
            f"sweep.gpus is {requested:g}, but torch sees {available} GPUs here. Lower it, or set it to auto."
        )
    return f"sweep.gpus {requested:g} of {available}"


def _check_study(config: Config) -> str:
    address = study_address(config.place)
    try:
        _connect(address)
    except Exception as error:  # SQLAlchemy and each driver have their own error types, and the address chooses any
        raise unopened_study(address, error) from error
    return f"{hide_password(address)} can be opened"


def _check_mlflow(config: Config) -> Check:
    """Check MLflow. A sweep continues without it, so a failure is only a warning."""
    address = mlflow_address(config.place)
    shown = hide_password(address)
    if address == "none":
        return Check("MLflow", "ok", "nothing is tracked")
    if urlsplit(address).scheme.partition("+")[0] not in _TRIED_SCHEMES:
        return Check("MLflow", "ok", f"{shown}, not checked")
    try:
        _connect(address)
    except Exception as error:  # as above
        text = f"{shown} does not answer ({' '.join(hidden(str(error)).split())}). Logging waits until it does."
        return Check("MLflow", "warning", f"{text} Check place.mlflow or $MLFLOW_TRACKING_URI.")
    return Check("MLflow", "ok", f"{shown} can be reached")


def _connect(address: str) -> None:
    """Open a database, or ask a server of MLflow."""
    parts = urlsplit(address)
    if file := sqlite_file(address):
        require_writable_folder(file.parent, "its folder")
        if file.exists():
            _read_sqlite(file)
    elif parts.scheme in ("http", "https"):
        _ask_mlflow(address)
    else:
        try_database(address, _ANSWER_SECONDS)


def _read_sqlite(file: Path) -> None:
    """Read a database's header, without taking its lock for writing from a sweep that runs."""
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", _ANSWER_SECONDS, uri=True)) as base:
        base.execute("PRAGMA schema_version")
    if not os.access(file, os.W_OK):
        raise PermissionError(f"{file} cannot be written")


def _ask_mlflow(address: str) -> None:
    """Ask the server for raydd's experiment by MLflow's REST API; another server on its port would take no data.

    Raises:
        OSError: nothing answers, or something that does not speak MLflow's API.
    """
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]  # logging sends the user's credentials; here a refusal is answer enough
    path = f"{parts.path.rstrip('/')}/{_EXPERIMENT_PATH}"
    url = parts._replace(netloc=host, path=path, query="experiment_name=raydd").geturl()  # any name is answered
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return
        status, body = error.code, error.read()
    try:
        known = {"experiment", "error_code"} & json.loads(body).keys()
    except (ValueError, AttributeError):
        known = set()
    if not known:
        raise OSError(f"/{_EXPERIMENT_PATH} gives HTTP {status} without an answer of MLflow's")
