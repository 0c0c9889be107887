"""A file of arrays that other code wrote: a `.pt`, a `.npz` or a `.safetensors`, read as numbers and text alone.

The file may come from a stranger: a `.pt` is read by torch's weights-only loader, which runs no code, a `.npz` without
pickles, and nothing that unpacks to more than a set can have is unpacked.
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

TO_DO = "Correct the description, or the file."
_MOST_BYTES = 8 * 2**30  # of a file, and of what it unpacks to; 500 pairs of 224 x 224 pixels take 0.3


def _load_torch(content: bytes) -> Any:
    _require_small(content)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _load_numpy(content: bytes) -> Any:
    _require_small(content)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _require_small(content: bytes) -> None:
    """Refuse an archive that unpacks to more than a file may have, before it is unpacked."""
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
    """A file of arrays, read."""

    path: Path
    content: Mapping[str, Any]
    digest: str
    """SHA-256."""

    @classmethod
    def read(cls, path: Path) -> "ArraysFile":
        """The file, whatever a made-up one makes its library raise being a RecordError."""
        try:
            content = read_file(path, _MOST_BYTES)
            found = LOADERS[path.suffix](content)
        except Exception as error:
            said = (str(error).splitlines() or [""])[0][:200]
            rule = " as tensors, numbers and text, and nothing else is loaded" if path.suffix == ".pt" else ""
            raise RecordError(f"{path} cannot be read{rule} ({type(error).__name__}: {said}). {TO_DO}") from error
        if not isinstance(found, dict):
            raise RecordError(f"{path} holds a {type(found).__name__}, but must hold a dictionary by names. {TO_DO}")
        return cls(path, found, hashlib.sha256(content).hexdigest())

    def listed(self) -> list[str]:
        """What there is, by name, type and shape."""
        return [f"{name} ({_shape(value)})" for name, value in self.content.items()]

    def at(self, field: str, key: str) -> Any:
        """What a key names; `params.0` is the first of the list `params`, unless there is one of that name."""
        found: Any = self.content
        rest = key
        while rest:
            if isinstance(found, dict) and rest in found:
                return found[rest]
            part, _, rest = rest.partition(".")
            if isinstance(found, dict) and part in found:
                found = found[part]
            elif part.isdecimal() and int(part) < _rows(found):
                found = found[int(part)]
            else:
                raise RecordError(
                    f"{self.path} has no {shown(key)}, which {field} names. It has {', '.join(self.listed())}. {TO_DO}"
                )
        return found

    def tensor(self, field: str, key: str, letters: str, sizes: dict[str, int]) -> Tensor:
        """Finite numbers whose shape agrees with the sizes known so far, which are added to.

        Args:
            field: of the description, for messages.
            key: which array.
            letters: a letter or a digit a dimension; one letter stands for one size.
            sizes: by letter.
        """
        found = self.at(field, key)
        wanted = " ".join(str(sizes.get(letter, letter)) for letter in letters)
        try:
            tensor = torch.from_numpy(np.ascontiguousarray(found)) if isinstance(found, np.ndarray) else found
        except (TypeError, ValueError):  # text, objects, a type that torch lacks
            tensor = None
        if not isinstance(tensor, Tensor) or tensor.is_complex() or tensor.dtype == torch.bool:
            raise RecordError(f"{self.path}: {key} is {_shape(found)}, but {field} must be numbers [{wanted}]. {TO_DO}")
        fits = tensor.ndim == len(letters) and tensor.numel() > 0
        for letter, size in zip(letters, tensor.shape, strict=False):
            fits = fits and size == (int(letter) if letter.isdigit() else sizes.setdefault(letter, size))
        if not fits:
            raise RecordError(f"{self.path}: {key} is {_shape(tensor)}, but {field} must be [{wanted}]. {TO_DO}")
        if tensor.numel() * tensor.element_size() > _MOST_BYTES:  # a view may claim any size
            raise RecordError(f"{self.path}: {key} is {_shape(tensor)}, over {_MOST_BYTES:,} bytes. {TO_DO}")
        if not bool(tensor.isfinite().all()):
            raise RecordError(f"{self.path}: {key} has NaN or infinite numbers, but {field} must be finite. {TO_DO}")
        return tensor.detach()

    def captions(self, key: str, count: int) -> tuple[str, ...]:
        """As many captions as there are images."""
        found = self.at("texts", key)
        found = found.tolist() if isinstance(found, np.ndarray) else found
        if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
            raise RecordError(f"{self.path}: {key} is {_shape(found)}, but captions are a list of text. {TO_DO}")
        if len(found) != count:
            raise RecordError(f"{self.path}: {key} has {len(found)} captions, but there are {count} images. {TO_DO}")
        return tuple(found)

    def rate(self, said: Any) -> float:
        """A learning rate above zero: the number that is said, or the one that a key names."""
        if not isinstance(said, str):
            return float(said)
        found = self.at("rates", said)
        single = isinstance(found, Tensor | np.ndarray | np.generic) and math.prod(found.shape) == 1
        value: Any = found.item() if single else found
        if not is_number(value) or value <= 0:
            what = shown(value) if single else _shape(found)
            raise RecordError(f"{self.path}: {said} is {what}, but a learning rate is one number above 0. {TO_DO}")
        return float(value)


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rows(found: Any) -> int:
    """How many rows a list or an array has; 0 of what has none."""
    if isinstance(found, Tensor | np.ndarray):
        return found.shape[0] if found.ndim else 0
    return len(found) if isinstance(found, list | tuple) else 0


def _shape(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} [{' '.join(map(str, value.shape))}]"
    return f"{len(value)} values" if isinstance(value, list | tuple | dict) else shown(value)
