"""The device and the threads on which a process computes."""

import contextlib
import functools
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from raydd.config import Config, PlaceConfig
from raydd.errors import ConfigError, PlaceError

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")
_DRIVER = Path("/sys/module/nvidia/version")
_DEVICES = Path("/dev")  # NVIDIA's driver has a file here for each GPU that this machine or container may use
FULL = " is full"  # part of the error of a GPU whose memory other processes use: it may be free later
_CPU_IMAGES = 4  # per encoder batch: with eight, some activations are larger than the blocks that glibc reuses


def device_of(place: PlaceConfig) -> str:
    """Return the torch device that `place.device` names; auto is a GPU if torch sees one. A GPU is tried first.

    Raises:
        ConfigError: the device does not exist, or torch cannot compute on it.
        PlaceError: other processes use the GPU's memory.
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
        if "out of memory" in str(error):
            raise PlaceError(
                f"The GPU {device} of {socket.gethostname()}{FULL}: other processes use its memory (`nvidia-smi` lists "
                "them). End them or wait for them, and give the same command again."
            ) from error
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


def queue_copy(tensor: "Tensor") -> "Callable[[], Tensor]":
    """Queue a copy to the CPU; return a function that waits for this copy, not for later work, and returns it.

    torch's own `cpu` waits for everything that the device has been given.
    """
    import torch

    if tensor.device.type != "cuda":
        return tensor.cpu
    copy, copied = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True), torch.cuda.Event()
    copy.copy_(tensor, non_blocking=True)
    copied.record()

    def wait() -> "Tensor":
        copied.synchronize()
        return copy

    return wait


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


_tf32_lock = threading.Lock()
_before_tf32: list[bool] = []  # the process's setting before each block that is open now


@contextlib.contextmanager
def in_tf32() -> Iterator[None]:
    """Let a GPU round the factors of float32 products to TF32 inside the block, for several times the speed.

    Sums stay float32. TF32 keeps 10 bits of a number's fraction. Convolutions are in TF32 by torch's own default; on a
    CPU nothing changes. The setting is that of the process; the last of several blocks restores it.
    """
    import torch

    with _tf32_lock:
        _before_tf32.append(bool(torch.backends.cuda.matmul.allow_tf32))
        torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        with _tf32_lock:
            before = _before_tf32[0]
            _before_tf32.pop()
            if not _before_tf32:
                torch.backends.cuda.matmul.allow_tf32 = before
