"""Finds an encoder's weights: its own pretrained weights, a local file or folder, or random weights from a seed."""

import contextlib
import functools
import hashlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from raydd.errors import ConfigError, DataError, RayddError
from raydd.plain_files import expanded

_PATIENCE = 5.0  # seconds to wait for the hub's first answer


@contextlib.contextmanager
def hub_access(description: str, setting: str) -> Iterator[None]:
    """Run a loader that may download; if the hub does not answer, the loader reads only the local cache.

    Args:
        description: name of the loaded files for the message, such as "the weights timm:nfnet_l0".
        setting: the setting that takes a local file instead.

    Raises:
        DataError: the weights are not in the local cache and cannot be downloaded.
    """
    with offline_if_silent() as reason:
        try:
            yield
        except RayddError:
            raise
        except Exception as error:  # each library and each HTTP client has errors of its own
            reason = reason or (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
            raise DataError(
                f"{description[0].upper()}{description[1:]}: not on this machine, and cannot be downloaded: {reason}. "
                f"Download a copy where there is a connection and name it in {setting}, or put random:SEED there."
            ) from error


@contextlib.contextmanager
def offline_if_silent() -> Iterator[str]:
    """Make the hub's client read only its cache if the hub does not answer; yield the reason, "" if it answers."""
    from huggingface_hub import constants, utils

    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not _hub_answers(constants.ENDPOINT)
    try:
        yield "the hub cannot be reached" if constants.HF_HUB_OFFLINE and not was_offline else ""
    finally:
        if was_offline != constants.HF_HUB_OFFLINE:
            constants.HF_HUB_OFFLINE = was_offline
            # Before version 1 the client keeps its sessions, which keep the setting that they started with.
            getattr(utils, "reset_sessions", lambda: None)()


@functools.cache
def _hub_answers(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        return True
    except OSError as error:
        return isinstance(getattr(error, "reason", None), ssl.SSLError)  # the hub's client has its own certificates
    return True


RANDOM = "random:"


def seed_of(weights: str, setting: str) -> int | None:
    """Return the seed of `random:SEED`, None for any other weights.

    Raises:
        ConfigError: the seed is not a whole number.
    """
    if not weights.startswith(RANDOM):
        return None
    digits = weights.removeprefix(RANDOM)
    if not digits.isdecimal():
        raise ConfigError(f"{setting} is {weights!r}, but a seed is a whole number. Write random:0, for example.")
    return int(digits)


def path_of(weights: str, setting: str) -> Path | None:
    """Return the local file or folder that a setting names, None if it names none.

    Raises:
        DataError: the file does not exist, or is a pipe or a device.
    """
    if not weights or weights.startswith(RANDOM):
        return None
    path = expanded(weights, setting)
    if not path.exists():
        raise DataError(f"{setting}: there is no {path}. Name a weights file, random:SEED, or leave it empty.")
    if not (path.is_file() or path.is_dir()):  # reading it might never end
        raise DataError(f"{setting}: {path} is a pipe, a socket or a device. Name a weights file.")
    return path


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw initial weights from a seed inside the block, then restore the random state; None does not set a seed."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield


def content_identity(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files and names: 16 hex digits. A process reads each file once."""
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(f"{name} {_file_hash(file, status.st_size, status.st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:16]


@functools.cache
def _file_hash(path: Path, size: int, modified_ns: int) -> str:  # noqa: ARG001 - the cache's key holds size and time
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file: .safetensors, or a PyTorch file, of which only tensors are unpickled.

    Raises:
        DataError: the file has another format, or holds something else.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # parsers of damaged files raise any kind of error
        raise DataError(f"{path} cannot be read as weights ({_first_line(error)}). {_FORMAT_HINT}") from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} holds no state dict. {_FORMAT_HINT}")
    return dict(state)


def copy_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy a state dict into a module: by name if the names are the module's, else in order.

    Tensors after the module's last one, such as those of a classifier that the module lacks, are ignored.

    Raises:
        DataError: a tensor is missing, or has another shape.
    """
    module_state = {name: value for name, value in module.state_dict().items() if not _is_counter(name)}
    loaded_state = {name: value for name, value in state.items() if not _is_counter(name)}
    if not module_state.keys() <= loaded_state.keys():
        loaded_state = dict(zip(module_state, loaded_state.values(), strict=False))
    for name, value in module_state.items():
        if name not in loaded_state or loaded_state[name].shape != value.shape:
            mismatch = f"has shape {tuple(loaded_state[name].shape)}" if name in loaded_state else "is missing"
            raise DataError(
                f"{path} does not fit {type(module).__name__}: {name} {mismatch}, wanted {tuple(value.shape)}. "
                "Give weights of the architecture that the encoder's name stands for."
            )
        value.copy_(loaded_state[name])


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


_FORMAT_HINT = "Give a .safetensors file, or a PyTorch file that holds only a state dict."
