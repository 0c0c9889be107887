"""Reads a file of arrays that other code wrote: a `.pt`, `.npz` or `.safetensors` file, as numbers and text only.

The file may come from an untrusted source. A `.pt` is read by torch's weights-only loader, which runs no code, and a
`.npz` is read without pickles. An archive that would unpack to more bytes than a set can have is not unpacked.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from raydd.errors import RecordError, shown
from raydd.plain_files import read_file

HELP = "Correct the description, or the file."
_MOST_BYTES = 8 * 2**30  # limit for a file, also when unpacked; 500 pairs of 224 x 224 pixels take 0.3 GB


def _load_torch(content: bytes) -> Any:
    _require_small(content)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _load_numpy(content: bytes) -> Any:
    _require_small(content)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _require_small(content: bytes) -> None:
    """Refuse an archive that would unpack to more bytes than the limit, before unpacking it."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MOST_BYTES:
            raise ValueError(f"it unpacks to {size:,} bytes, over the limit of {_MOST_BYTES:,}")


LOADERS: Mapping[str, Callable[[bytes], Any]] = {
    ".pt": _load_torch,
    ".npz": _load_numpy,
    ".safetensors": safetensors.torch.load,
}


@dataclass(frozen=True)
class ArraysFile:
    """The content of a file of arrays."""

    path: Path
    content: Mapping[str, Any]
    digest: str
    """SHA-256 of the file."""

    @classmethod
    def read(cls, path: Path) -> "ArraysFile":
        """Read a file. Any error that its library raises, also on a forged file, becomes a RecordError."""
        try:
            content = read_file(path, _MOST_BYTES)
            arrays = LOADERS[path.suffix](content)
        except Exception as error:
            error_text = (str(error).splitlines() or [""])[0][:200]
            rule = " as tensors, numbers and text, the only types that are loaded" if path.suffix == ".pt" else ""
            raise RecordError(f"{path} cannot be read{rule} ({type(error).__name__}: {error_text}). {HELP}") from error
        if not isinstance(arrays, dict):
            raise RecordError(f"{path} holds a {type(arrays).__name__}, but must hold a dictionary of arrays. {HELP}")
        return cls(path, arrays, hashlib.sha256(content).hexdigest())

    def list_arrays(self) -> list[str]:
        """List the content by name, type and shape."""
        return [f"{name} ({_shape_text(value)})" for name, value in self.content.items()]

    def value_at(self, field: str, key: str) -> Any:
        """Return the value of a key. `params.0` is item 0 of the list `params`, unless that key itself exists."""
        value: Any = self.content
        rest = key
        while rest:
            if isinstance(value, dict) and rest in value:
                return value[rest]
            part, _, rest = rest.partition(".")
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif part.isdecimal() and int(part) < _row_count(value):
                value = value[int(part)]
            else:
                contents = ", ".join(self.list_arrays())
                raise RecordError(f"{self.path} has no {shown(key)}, which {field} names. It has {contents}. {HELP}")
        return value

    def tensor(self, field: str, key: str, letters: str, sizes: dict[str, int]) -> Tensor:
        """Return an array of finite numbers, after checking its shape against the sizes known so far.

        Args:
            field: field of the description, for messages.
            key: key of the array.
            letters: a letter or a digit per dimension; the same letter is the same size everywhere.
            sizes: known size of each letter; new letters are added.
        """
        value = self.value_at(field, key)
        expected = " ".join(str(sizes.get(letter, letter)) for letter in letters)
        try:
            tensor = torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        except (TypeError, ValueError):  # text, objects, or a type that torch does not have
            tensor = None
        if not isinstance(tensor, Tensor) or not _holds_numbers(tensor):
            raise RecordError(
                f"{self.path}: {key} is {_shape_text(value)}, but {field} must be numbers [{expected}]. {HELP}"
            )
        fits = tensor.ndim == len(letters) and tensor.numel() > 0
        for letter, size in zip(letters, tensor.shape, strict=False):
            fits = fits and size == (int(letter) if letter.isdigit() else sizes.setdefault(letter, size))
        if not fits:
            raise RecordError(f"{self.path}: {key} is {_shape_text(tensor)}, but {field} must be [{expected}]. {HELP}")
        if tensor.numel() * tensor.element_size() > _MOST_BYTES:  # a view may claim any size
            raise RecordError(f"{self.path}: {key} is {_shape_text(tensor)}, over {_MOST_BYTES:,} bytes. {HELP}")
        if not bool(tensor.float().isfinite().all()):  # students train in float32
            raise RecordError(f"{self.path}: {key} has NaN or infinite numbers, but {field} must be finite. {HELP}")
        return tensor.detach()

    def captions(self, key: str, count: int) -> tuple[str, ...]:
        """Return the captions, one per image."""
        captions = self.value_at("texts", key)
        captions = captions.tolist() if isinstance(captions, np.ndarray) else captions
        if not isinstance(captions, list | tuple) or not all(isinstance(caption, str) for caption in captions):
            raise RecordError(
                f"{self.path}: {key} is {_shape_text(captions)}, but captions must be a list of strings. {HELP}"
            )
        if len(captions) != count:
            raise RecordError(f"{self.path}: {key} has {len(captions)} captions, but there are {count} images. {HELP}")
        return tuple(captions)

    def rate(self, rate_or_key: Any) -> float:
        """Return a learning rate above zero: the given number, or the number that a key names."""
        if not isinstance(rate_or_key, str):
            return float(rate_or_key)
        entry = self.value_at("rates", rate_or_key)
        is_single = isinstance(entry, Tensor | np.ndarray | np.generic) and math.prod(entry.shape) == 1
        value: Any = entry.item() if is_single else entry
        if not is_number(value) or value <= 0:
            description = shown(value) if is_single else _shape_text(entry)
            raise RecordError(
                f"{self.path}: {rate_or_key} is {description}, but a learning rate must be one number above 0. {HELP}"
            )
        return float(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def _holds_numbers(tensor: Tensor) -> bool:
    """Return whether a tensor holds its real numbers in memory, one after the other: neither sparse nor quantised."""
    in_memory = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return in_memory and not tensor.is_complex() and tensor.dtype != torch.bool


def _row_count(value: Any) -> int:
    """Return the number of rows of a list or an array; 0 for any other value."""
    if isinstance(value, Tensor | np.ndarray):
        return value.shape[0] if value.ndim else 0
    return len(value) if isinstance(value, list | tuple) else 0


def _shape_text(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} [{' '.join(map(str, value.shape))}]"
    return f"{len(value)} values" if isinstance(value, list | tuple | dict) else shown(value)
