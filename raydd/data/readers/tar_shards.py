"""Reads WebDataset shards (cc3m, cc12m, img2dataset): `*.tar` with `key.jpg` and `key.txt`, or `key.json` with a text.

The headers of each shard are scanned once, and images are read by their offset: nothing is unpacked. The split comes
from the name of the shard or of its folder (`cc3m-train-0000.tar`); the default is train.
"""

import json
import tarfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from raydd.config import DataConfig
from raydd.data.images import MOST_BYTES, SUFFIXES, file_stamp
from raydd.data.listing import Entry, Listing, Problem
from raydd.data.readers.folders import as_captions, files_below, named_folder, root_folder, split_of_path
from raydd.errors import DataError
from raydd.plain_files import require_regular

_MOST_TEXT = 2**24  # most bytes of a caption or of a sample's JSON; a larger member gives no caption
CAPTION_KEYS = ("caption", "captions", "text")


@dataclass(frozen=True, slots=True)
class TarImage:
    """An image inside a tar file, or inside any other file that holds its bytes contiguously, such as an Arrow file."""

    name: str
    path: str
    offset: int
    """Offset of the image's first byte in the file."""
    length: int
    """Length of the image in bytes."""
    file_stamp: str = field(default="", compare=False, repr=False)
    """Stamp of the file when it was listed, so that its members need not look it up on disk; "" looks it up."""

    def read(self) -> bytes:
        """Return the encoded image; it is shorter than `length` if the file was cut."""
        if self.length > MOST_BYTES:
            raise OSError(f"the shard says that it has {self.length:,} bytes, over the limit of {MOST_BYTES:,}")
        with Path(self.path).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)

    def stamp(self) -> str:
        """Return the file's stamp with the image's position in it; "" if there is no such file."""
        file = self.file_stamp or file_stamp(self.path)
        return f"{file} {self.offset} {self.length}" if file else ""


@dataclass
class _Sample:
    images: list[TarImage] = field(default_factory=list)
    captions: tuple[str, ...] = ()


def read(config: DataConfig) -> Listing:
    """List every tar file under `data.root`, or under its subfolder `data.name` if that exists.

    Raises:
        DataError: there is no tar file.
    """
    root = root_folder(config)
    data_folder = named_folder(root, config.name)
    shards = files_below(data_folder, "*.tar")
    if not shards:
        raise DataError(f"{data_folder} holds no *.tar file. Check data.root, or choose another data.reader.")
    entries: list[Entry] = []
    problems: list[Problem] = []
    for shard in shards:
        samples, faults = _scan(shard)
        problems += faults
        split = split_of_path(shard, data_folder) or "train"
        prefix = shard.relative_to(data_folder).with_suffix("").as_posix()
        for key, sample in samples.items():
            name = f"{prefix}/{key}"
            if not sample.images:
                problems.append(Problem("missing image", name, f"{shard.name} has a caption of it alone"))
            entries += [Entry(split, name, image, sample.captions) for image in sample.images]
    return Listing(config.name or root.resolve().name, tuple(entries), tuple(problems))


def _scan(shard: Path) -> tuple[dict[str, _Sample], list[Problem]]:
    samples: dict[str, _Sample] = defaultdict(_Sample)
    stamp = file_stamp(str(shard))
    try:
        require_regular(shard.stat(), shard)  # opening a pipe would block forever
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isreg():
                    _add_member(samples, tar, member, shard, stamp)
            if shard.stat().st_size < tar.offset + tarfile.BLOCKSIZE:  # a whole tar ends with empty blocks
                raise tarfile.ReadError("cut short")
    except (tarfile.TarError, OSError) as error:
        return dict(samples), [Problem("damaged shard", str(shard), f"{error}; what stands before it is used")]
    return dict(samples), []


def _add_member(
    samples: dict[str, _Sample], tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path, stamp: str
) -> None:
    folder, _, file = member.name.rpartition("/")
    stem, _, ending = file.partition(".")  # WebDataset's rule: a key ends at the file name's first dot
    key = f"{folder}/{stem}" if folder else stem
    ending = ending.lower()
    if f".{ending}" in SUFFIXES:
        name = f"{shard.name}/{member.name}"
        samples[key].images.append(TarImage(name, str(shard), member.offset_data, member.size, stamp))
    elif ending == "txt":
        samples[key].captions = (_read_member(tar, member).decode(errors="replace").strip(),)
    elif ending == "json" and not samples[key].captions:
        samples[key].captions = _parse_captions(_read_member(tar, member))


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member) if member.size <= _MOST_TEXT else None
    return stream.read() if stream else b""


def _parse_captions(content: bytes) -> tuple[str, ...]:
    try:
        metadata = json.loads(content)
    except (ValueError, RecursionError):  # the sample then has no caption and becomes a Problem
        return ()
    keys = [key for key in CAPTION_KEYS if isinstance(metadata, dict) and key in metadata]
    return as_captions(metadata[keys[0]]) if keys else ()
