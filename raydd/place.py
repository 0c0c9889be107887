"""Where results are kept and computed: the home folder, the store, the device, the threads."""

import contextlib
import functools
import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from raydd.config import Config, PlaceConfig
from raydd.errors import ConfigError
from raydd.plain_files import expanded, require_writable_folder
from raydd.secrets_hidden import hidden, hide_password, remember
from raydd.store import Store
from raydd.store.remote import PATIENCE_SECONDS

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")
_HOME_ENTRIES = {  # names of what raydd writes into the home folder
    *("store", "cache", "studies", "mlflow", "mlartifacts", "sweeps", "comparisons", "reports", "demo"),
    *("ray", "ray-runs", "board"),
}
_SQLITE = "sqlite:///"
_IN_MEMORY = re.compile(r"sqlite(\+\w+)?:///?($|\?|:memory:|file::memory:|file:.*mode=memory)")
_DRIVER = Path("/sys/module/nvidia/version")
_DEVICES = Path("/dev")  # NVIDIA's driver has a file here for each GPU that this machine or container may use
_CPU_IMAGES = 4  # per encoder batch: with eight, some activations are larger than the blocks that glibc reuses


def home(place: PlaceConfig) -> Path:
    """Return the folder for everything that raydd writes: `place.home`, else $RAYDD_HOME, else ~/.raydd."""
    configured = place.home or os.environ.get("RAYDD_HOME")
    return expanded(configured or "~/.raydd", "place.home" if configured else "the default of place.home").absolute()


def make_home(place: PlaceConfig) -> Path:
    """Make the home folder, which only its owner can read, since it holds logs and databases of runs.

    An existing home folder, such as one of an older version, is closed to other users, unless it holds files that are
    not raydd's, or its setgid bit says that a group shares it.

    Raises:
        ConfigError: the folder cannot be made.
    """
    folder = home(place)
    if folder.exists():
        _close_to_others(folder)
    else:
        require_writable_folder(folder, "place.home")
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _close_to_others(folder: Path) -> None:
    state = folder.stat()
    shared = state.st_mode & (stat.S_ISGID | stat.S_ISVTX) or state.st_uid != os.getuid()
    if shared or not state.st_mode & 0o077 or not folder.is_dir():
        return
    if {entry.name.partition(".")[0] for entry in folder.iterdir()} <= _HOME_ENTRIES:
        with contextlib.suppress(PermissionError):  # some network disks do not allow changing a folder's mode
            folder.chmod(0o700)


def open_store(place: PlaceConfig, *, patience: float = PATIENCE_SECONDS) -> Store:
    """Open the store of records: `place.store`, else $RAYDD_STORE, else the folder `store` in the home folder.

    Args:
        place: the settings `place.*`.
        patience: seconds during which requests to a bucket that does not answer are repeated.
    """
    folder = make_home(place)
    root = place.store or os.environ.get("RAYDD_STORE") or folder / "store"
    return Store(remember(str(root)), cache=folder / "cache", cache_bytes=int(place.cache_gb * 1e9), patience=patience)


def sqlite_file(address: str) -> Path | None:
    """Return the file of a database's address; None if the database is not an SQLite file."""
    return Path(address.removeprefix(_SQLITE)) if address.startswith(_SQLITE) else None


def mlflow_address(place: PlaceConfig) -> str:
    """Return MLflow's address: `place.mlflow`, else $MLFLOW_TRACKING_URI, else SQLite in the home; `none` for none."""
    configured = place.mlflow or os.environ.get("MLFLOW_TRACKING_URI")
    return remember(configured or f"sqlite:///{home(place) / 'mlflow.db'}")


def study_address(place: PlaceConfig) -> str:
    """Return the address of Optuna's database: `place.study`, else $RAYDD_STUDY, else SQLite in the home folder.

    Raises:
        ConfigError: it is a database in memory, which each process would have for itself and lose at its end.
    """
    address = remember(place.study or os.environ.get("RAYDD_STUDY") or f"sqlite:///{home(place) / 'studies.db'}")
    if _IN_MEMORY.match(address):
        raise ConfigError(
            f"The study's database {hide_password(address)} is in memory and would be lost when the process ends. "
            "Set place.study or $RAYDD_STUDY to a file: sqlite:////FOLDER/studies.db."
        )
    return address


def unopened_study(address: str, error: Exception) -> ConfigError:
    """Return the error for a study's database that cannot be opened, without its password."""
    return ConfigError(
        f"The study's database {hide_password(address)} cannot be opened "
        f"({type(error).__name__}: {' '.join(hidden(str(error)).split())}). "
        "Check place.study or $RAYDD_STUDY."
    )


def device_of(place: PlaceConfig) -> str:
    """Return the torch device that `place.device` names; auto is a GPU if torch sees one. A GPU is tried first.

    Raises:
        ConfigError: the device does not exist, or torch cannot compute on it.
    """
    import torch

    device = ("cuda" if sees_gpu() else "cpu") if place.device == "auto" else place.device
    if device != "cpu":
        _require_usable(device)
        if device.startswith("cuda:"):  # or threads that name no device, torch's own too, use the first GPU
            torch.cuda.set_device(device)
    return device


def sees_gpu() -> bool:
    """Whether torch sees a GPU. It is not tried, since that takes memory, and a driver leaves its GPUs to workers."""
    import torch

    return torch.cuda.is_available()


def device_name(device: str) -> str:
    """Return the name of the GPU that a torch device is, or the device's own name."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(device)


def require_one_device(config: Config) -> None:
    """Refuse GPUs for trials that should compute on the CPU.

    Raises:
        ConfigError: `sweep.gpus` and `place.device` contradict each other.
    """
    if config.place.device == "cpu" and config.sweep.gpu_share:
        raise ConfigError(
            f"sweep.gpus is {config.sweep.gpus:g}, but place.device is cpu. Set place.device to auto, or sweep.gpus "
            "to 0."
        )


@functools.cache  # a device that works is not tried again; a device that fails is, since errors are not cached
def _require_usable(device: str) -> None:
    import torch

    try:
        if float(torch.ones(1, device=device).sum()) != 1:
            raise RuntimeError("it adds wrongly")
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ConfigError(
            f"{socket.gethostname()} cannot compute on the device {device}: {driver_and_wheel()} ({reason}). "
            f"{_device_advice()}"
        ) from error


def unused_gpus() -> str:
    """Say why torch cannot use the NVIDIA GPUs of this machine; empty if it sees them, or if there are none."""
    import torch

    count = len(_gpu_files())
    if torch.cuda.is_available() or not (count or _DRIVER.exists()):
        return ""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ""  # hidden on purpose
    if not count:
        return f"{driver_and_wheel()}. {_device_advice()}"
    return (
        f"torch cannot use the {count} GPU{'s' if count > 1 else ''} of this machine: {driver_and_wheel()}. "
        f"{_device_advice()}"
    )


def driver_and_wheel() -> str:
    """Return the versions that must match for a GPU: of NVIDIA's driver, and of torch with its CUDA or ROCm."""
    import torch

    driver = f"NVIDIA driver {_DRIVER.read_text().strip()}" if _DRIVER.exists() else "no NVIDIA driver"
    if _DRIVER.exists() and not _gpu_files():  # a container sees the driver of its host
        driver += ", but no GPU is passed into this container"
    versions = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    built_for = " and ".join(f"{platform} {version}" for platform, version in versions.items() if version)
    return f"{driver}, and torch {torch.__version__} is a wheel {'for ' + built_for if built_for else 'without CUDA'}"


def _device_advice() -> str:
    import torch

    if not _DRIVER.exists():
        return "Set place.device to auto or cpu, and sweep.gpus to auto or 0."
    if not _gpu_files():
        return "Start it with its GPUs (Docker: --gpus all), or set place.device to cpu and sweep.gpus to 0."
    replacement = "another wheel or a newer driver" if torch.version.cuda else "a wheel with CUDA"
    return (
        f"Install {replacement} (https://pytorch.org/get-started/locally), or set place.device to cpu and sweep.gpus "
        "to 0."
    )


def _gpu_files() -> list[Path]:
    return [file for file in _DEVICES.glob("nvidia*") if file.name.removeprefix("nvidia").isdigit()]


def sent(tensor: "Tensor", device: str) -> "Tensor":
    """Return a copy of the tensor on a device without waiting for the device's work; torch's own `to` would wait.

    The copy is queued, and reads from pinned memory after this function has returned.
    """
    to_gpu = device.startswith("cuda") and tensor.device.type == "cpu"
    return (tensor.pin_memory() if to_gpu else tensor).to(device, non_blocking=True)


def use_threads(place: PlaceConfig) -> None:
    """Limit this process to `place.threads` CPU threads; 0 keeps torch's own choice, all cores."""
    import torch

    if place.threads:
        torch.set_num_threads(place.threads)


def images_at_once(place: PlaceConfig, device: str) -> int:
    """Return the images per batch for gradients: `place.encode_batch` on a GPU, few on a CPU, where many are slower."""
    return min(_CPU_IMAGES, place.encode_batch) if device == "cpu" else place.encode_batch


def on_all_cores(work: Callable[[Item], Result], items: Iterable[Item], device: str) -> list[Result]:
    """Do independent work on all CPU threads, one thread per item; on a GPU, one item after the other.

    Convolutions of a few images use two cores badly: two batches side by side are 1.5 times as fast.
    """
    import torch

    threads = torch.get_num_threads() if device == "cpu" else 1
    if threads == 1:
        return [work(item) for item in items]
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one CPU thread inside the block."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
