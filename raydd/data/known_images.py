"""Remembers the images that this machine has read: the digest of their bytes, and their fault if they have one.

An image is looked up by its stamp (file, size, times, inode, position in the file). So opening an unchanged data set
reads no image, and an image whose bytes changed in place is read again. The results are one file per data set in the
machine's own store (`Store.machine_store`), with 36 bytes per image. While images are being read, the results of each
shard are a file of their own, so that a killed check continues where it stopped. Two checks of one data set can run at
the same time.

    known.safetensors                stamps [n 2], digests [n 2], faults [n] (0: none), texts (JSON of the faults)
    part-7f3a….safetensors           the same for one shard

Letters: n images.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image

from raydd.data.images import ImageSource
from raydd.errors import RecordError
from raydd.store import Record, Store

VERSION = 2  # of the file format and of what counts as a fault
MOST_DATA_SETS = 32  # data sets that a machine remembers; those not opened for the longest time are deleted
DIGEST_BYTES = 16  # of an image's SHA-256: enough that no two images of a disk share them by chance
_MERGED = "known.safetensors"
_STALE_SECONDS = 86_400.0  # after this time an unfinished file belongs to a killed writer

Fault = tuple[str, str]
"""Kind and detail of a fault."""


@dataclass(frozen=True)
class Known:
    """Images whose digest and fault are known."""

    stamps: NDArray[np.int64]
    """128-bit hash of each image's stamp: shape (n, 2)."""
    digests: NDArray[np.int64]
    """`DIGEST_BYTES` of the SHA-256 of each image's bytes: shape (n, 2)."""
    faults: NDArray[np.int32]
    """1 + index into `texts`, 0 if the image has no fault: shape (n,)."""
    texts: tuple[Fault, ...]

    @classmethod
    def of(cls, stamps: NDArray[np.int64], digests: NDArray[np.int64], faults: Mapping[int, Fault]) -> "Known":
        """Create the object from faults by the image's index."""
        texts = tuple(dict.fromkeys(faults.values()))
        numbers = {fault: number for number, fault in enumerate(texts, start=1)}
        fault_numbers = np.zeros(len(stamps), np.int32)
        for index, fault in faults.items():
            fault_numbers[index] = numbers[fault]
        return cls(stamps, digests, fault_numbers, texts)

    def indices_of(self, stamps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of each given stamp among `self.stamps`, -1 if it is not known."""
        if not len(self.stamps):
            return np.full(len(stamps), -1)
        order = np.argsort(self.stamps[:, 0], kind="stable")
        indices = order[np.searchsorted(self.stamps[order, 0], stamps[:, 0]).clip(max=len(order) - 1)]
        matches = (self.stamps[indices] == stamps).all(axis=1) & stamps.any(axis=1)
        return np.where(matches, indices, -1)

    def fault(self, index: int) -> Fault | None:
        """Return the fault of one image, None if it has none."""
        number = int(self.faults[index])
        return self.texts[number - 1] if number else None


class KnownImages:
    """The images of one data set that this machine has read."""

    def __init__(self, store: Store, data_set: str) -> None:
        """Open the results that this machine has for a data set.

        Args:
            store: the store whose machine-local part keeps the results.
            data_set: identifies the data set on this machine.
        """
        settings = {
            "data": hashlib.sha256(data_set.encode("utf-8", "surrogatepass")).hexdigest(),
            "pillow": PIL.__version__,  # decides what can be decoded
            "pixels": Image.MAX_IMAGE_PIXELS,  # images above this limit are oversized
        }
        self._record = Record.of(store.machine_store(), "images", settings, {}, version=VERSION)
        names = [name.rpartition("/")[2] for name in self._record.store.names(self._record.folder)]
        self.parts = [name for name in names if name.startswith("part-")]
        """Files of shards that are not merged yet."""
        self.known = [known for name in (_MERGED, *self.parts) if name in names and (known := self._read(name))]

    def add(self, known: Known) -> None:
        """Write the results for a shard of images immediately."""
        if not len(known.stamps):
            return
        name = f"part-{secrets.token_hex(8)}.safetensors"
        self._write(name, known)
        self.parts.append(name)

    def keep(self, known: Known) -> None:
        """Replace all files by one with the results for the data set as it is now; limit the number of data sets."""
        self._write(_MERGED, known)
        for name in self.parts:
            self._record.remove(name)
        self.parts.clear()
        _delete_old_data_sets(self._folder.parent)

    def touch(self) -> None:
        """Mark the data set as opened now."""
        with contextlib.suppress(OSError):
            os.utime(self._folder)

    @property
    def _folder(self) -> Path:
        folder = self._record.store.folder
        assert folder is not None, "the machine's own store is a folder"
        return folder / self._record.folder

    def _write(self, name: str, known: Known) -> None:
        texts = np.frombuffer(bytearray(json.dumps(known.texts).encode()), np.uint8)
        columns = {"stamps": known.stamps, "digests": known.digests, "faults": known.faults, "texts": texts}
        self._record.write_tensors(name, {key: torch.from_numpy(column) for key, column in columns.items()})

    def _read(self, name: str) -> Known | None:
        try:
            columns = {key: column.numpy() for key, column in self._record.read_tensors(name).items()}
            texts = tuple((kind, detail) for kind, detail in json.loads(columns["texts"].tobytes()))
            return Known(columns["stamps"], columns["digests"], columns["faults"], texts)
        except (RecordError, KeyError, ValueError):  # damaged, or merged by another process meanwhile
            return None


def stamps_of(images: Sequence[ImageSource]) -> NDArray[np.int64]:
    """Return a 128-bit hash of each image's stamp, zeros for a missing image: shape (n, 2)."""
    stamps = np.zeros((len(images), 2), np.int64)
    for index, image in enumerate(images):
        if stamp := image.stamp():
            digest = hashlib.blake2b(stamp.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            stamps[index] = np.frombuffer(digest, np.int64)
    return stamps


def _delete_old_data_sets(folder: Path) -> None:
    """Keep only the newest data sets, and delete unfinished files of writers that were killed long ago."""
    with contextlib.suppress(OSError):  # another process may be doing the same
        data_sets = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old_folder in data_sets[MOST_DATA_SETS:]:
            shutil.rmtree(old_folder, ignore_errors=True)
        for path in folder.glob("*/.*.part"):
            if path.stat().st_mtime < time.time() - _STALE_SECONDS:
                path.unlink(missing_ok=True)
