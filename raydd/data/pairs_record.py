"""The pairs record: a checked data set in the store, which a process opens without calling its reader.

Columns of texts and numbers are safetensors files, mapped into memory. A row is decoded when it is requested. A file is
mapped when one of its rows is requested. Only a few files are mapped at the same time, since some kernels count
megabytes around each row as memory of the process. So opening takes the same time and memory at any number of pairs.

    SPLIT/images-00000.safetensors      of 262,144 images: id, name, path (texts), container, numbers [n 2]
    SPLIT/captions-00000.safetensors    of 262,144 captions: caption (texts)
    SPLIT/image_of_caption.safetensors  image_of_caption [C]
    containers.safetensors              kind [k], base [k], path, column (texts)
    problems-00000.safetensors          of 262,144 problems: kind, which, detail (texts), left_out [p]

A column of texts T is stored as `T.bytes` in UTF-8 and `T.offsets` [n + 1]. A container is what many images share: a
tar file, a column of a Parquet file, or the folder of single image files. Paths are relative to a folder of
`raydd.data.image_paths.BASES`. An image's numbers are its offset and length in a tar file, or its row group and row.

Letters: n images, C captions, k containers, p problems.
"""

import hashlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Generic, SupportsIndex, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from raydd.data.image_paths import ImagePaths
from raydd.data.images import FileImage, ImageSource
from raydd.data.listing import SPLITS, Entry, Problem, Split
from raydd.data.readers.parquet_files import ParquetImage
from raydd.data.readers.tar_shards import TarImage
from raydd.errors import DataError, RecordError
from raydd.store import Record, Store

VERSION = 2  # 1: only results of the check, named by file sizes
PER_FILE = 1 << 18  # rows per file, some megabytes
MAPPED = 4  # most files that a process maps at the same time
STAGE = "pairs"
KINDS: tuple[type, ...] = (FileImage, ParquetImage, TarImage)
_CONTAINERS, _OWNERS = "containers.safetensors", "image_of_caption.safetensors"
_CODEC = ("utf-8", "surrogatepass")  # JSON files and file names can contain half a surrogate pair

Item = TypeVar("Item")
Columns = dict[str, NDArray[Any]]


class Rows(Sequence[Item], Generic[Item]):
    """Rows of a record's files, decoded one at a time. They are equal to any sequence of equal rows."""

    def __init__(self, files: Sequence["ColumnFile"], count: int, decode: Callable[[Columns, int], Item]) -> None:
        """Read files of `PER_FILE` rows each; `decode` makes a row from a file's columns and the row's index in it."""
        self._files, self._count, self._decode = files, count, decode

    def __len__(self) -> int:
        """The number of rows."""
        return self._count

    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Item | tuple[Item, ...]:
        """Return one row, or a slice of rows as a tuple."""
        if isinstance(index, slice):
            return tuple(map(self._decode_row, range(*index.indices(self._count))))
        row = operator.index(index)
        if not -self._count <= row < self._count:
            raise IndexError(f"row {row} of {self._count}")
        return self._decode_row(row % self._count)

    def __iter__(self) -> Iterator[Item]:
        """The rows in order."""
        return map(self._decode_row, range(self._count))

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has equal rows."""
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(row == other_row for row, other_row in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Show the first three rows."""
        return f"Rows({', '.join(map(repr, self[:3]))}{', …' if len(self) > 3 else ''})"

    def _decode_row(self, row: int) -> Item:
        file_number, row_in_file = divmod(row, PER_FILE)
        return self._decode(self._files[file_number].columns, row_in_file)


class ColumnFile:
    """One file of a record, mapped into memory when it is needed. Pickling keeps only where the file is."""

    def __init__(self, record: Record, name: str) -> None:
        """Refer to the file of that name without opening it."""
        self._record, self._name = record, name

    @property
    def columns(self) -> Columns:
        """Columns of the file.

        Raises:
            RecordError: the file is missing or damaged.
        """
        return _map_columns(self)

    def map(self) -> Columns:
        """Map the file into memory again."""
        return {key: column.numpy() for key, column in self._record.map_tensors(self._name).items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the file is, for another process to map it."""
        return ColumnFile, (self._record, self._name)


@lru_cache(MAPPED)
def _map_columns(file: ColumnFile) -> Columns:
    return file.map()


@dataclass(frozen=True)
class Text:
    """Decodes a column of texts. If `fallback` is named, an empty text is replaced by the text of that column."""

    name: str
    fallback: str = ""

    def __call__(self, columns: Columns, row: int) -> str:
        """Return the text of a row."""
        start, end = columns[f"{self.name}.offsets"][row : row + 2].tolist()
        if start == end and self.fallback:
            return Text(self.fallback)(columns, row)
        return columns[f"{self.name}.bytes"][start:end].tobytes().decode(*_CODEC)


@dataclass(frozen=True)
class Source:
    """Decodes where an image is stored."""

    containers: ColumnFile
    paths: ImagePaths

    def __call__(self, columns: Columns, row: int) -> ImageSource:
        """Return the image source of a row."""
        container_columns, name = self.containers.columns, Text("name", "id")(columns, row)
        container, (first, second) = int(columns["container"][row]), columns["numbers"][row].tolist()
        kind, base = KINDS[int(container_columns["kind"][container])], int(container_columns["base"][container])
        if kind is FileImage:
            path = Text("path")(columns, row) or name
            return FileImage(name, self.paths.absolute(base, path))
        path = self.paths.absolute(base, Text("path")(container_columns, container))
        if kind is ParquetImage:
            return ParquetImage(name, path, Text("column")(container_columns, container), first, second)
        return TarImage(name, path, first, second)


def decode_problem(columns: Columns, row: int) -> Problem:
    """Return the problem of a row."""
    kind, which, detail = (Text(name)(columns, row) for name in ("kind", "which", "detail"))
    return Problem(kind, which, detail, bool(columns["left_out"][row]))


@dataclass(frozen=True)
class Listed:
    """A checked data set to be written."""

    name: str
    splits: Mapping[Split, Sequence[Entry]]
    problems: Sequence[Problem]
    notes: tuple[str, ...]
    content: str
    """Fingerprint of the content."""


@dataclass(frozen=True)
class OpenedSplit:
    """One split of the record: n images and C captions."""

    images: Rows[ImageSource]
    ids: Rows[str]
    captions: Rows[str]
    image_of_caption: NDArray[np.int64]
    """Shape (C,), mapped into memory."""


@dataclass(frozen=True)
class OpenedRecord:
    """An opened pairs record."""

    name: str
    splits: Mapping[Split, OpenedSplit]
    problems: Rows[Problem]
    notes: tuple[str, ...]
    content: str


def require_known_sources(entries: Iterable[Entry], reader: str) -> None:
    """Raise an error for images that the record cannot hold.

    Raises:
        DataError: an image is no FileImage, ParquetImage or TarImage.
    """
    for entry in entries:
        if type(entry.image) not in KINDS:
            raise DataError(
                f"The reader {reader} returns {entry.id!r} as a {type(entry.image).__name__}, which the store cannot "
                "keep. Return a FileImage, a ParquetImage or a TarImage."
            )


def write_pairs(store: Store, listed: Listed, paths: ImagePaths) -> str:
    """Write the record unless the store has it.

    Args:
        store: the store to write to.
        listed: the data set. Its entries are iterated several times, and may be created on the way.
        paths: the folders that paths are stored relative to.

    Returns:
        The record's name for `open_pairs`. It identifies the content and the paths.
    """
    containers: dict[tuple[int, int, str, str], int] = {}
    digest = hashlib.sha256()
    for text in (listed.name, *listed.notes, *map(repr, listed.problems)):
        digest.update(repr(text).encode())
    for split in SPLITS:
        for row in _image_rows(listed.splits[split], paths, containers):
            digest.update(repr(row).encode(*_CODEC))
    digest.update(repr(list(containers)).encode(*_CODEC))
    settings = {"content": listed.content, "listed": digest.hexdigest()[:32]}
    record = Record.of(store, "pairs", settings, {}, version=VERSION)
    if not record.complete:
        _write(record, listed, paths, containers)
    return record.fingerprint


def open_pairs(store: Store, listing: str, paths: ImagePaths) -> OpenedRecord:
    """Open the record of that name. A damaged file is noticed when one of its rows is first read.

    Raises:
        RecordError: the store has no such record, or the record is not complete.
    """
    record = Record(store, STAGE, listing, {}, {}, VERSION)
    if not record.complete:
        raise RecordError(f"{store.root} has no data set {listing}. List it again with `raydd features`.")
    facts = record.facts()
    containers = ColumnFile(record, _CONTAINERS)
    splits = {}
    for split in SPLITS:
        image_count, caption_count = facts["images"][split], facts["captions"][split]
        image_files = _column_files(record, f"{split}/images", image_count)
        caption_files = _column_files(record, f"{split}/captions", caption_count)
        splits[split] = OpenedSplit(
            Rows(image_files, image_count, Source(containers, paths)),
            Rows(image_files, image_count, Text("id")),
            Rows(caption_files, caption_count, Text("caption")),
            record.map_tensors(f"{split}/{_OWNERS}")["image_of_caption"].numpy(),
        )
    problems = Rows(_column_files(record, "problems", facts["problems"]), facts["problems"], decode_problem)
    return OpenedRecord(facts["name"], splits, problems, tuple(facts["notes"]), facts["content"])


Row = tuple[str, str, str, int, int, int]
"""Id, name, path, container and two numbers of an image. A name equal to the id, or a path equal to the name, is ""."""


def _image_rows(
    entries: Iterable[Entry], paths: ImagePaths, containers: dict[tuple[int, int, str, str], int]
) -> Iterator[Row]:
    for entry in entries:
        image, first, second = entry.image, 0, 0
        assert isinstance(image, FileImage | ParquetImage | TarImage)  # see require_known_sources
        base, path = paths.relative(image.path)
        container_path, column = path, ""
        if isinstance(image, FileImage):
            path, container_path = "" if path == image.name else path, ""
        else:
            path = ""
        if isinstance(image, ParquetImage):
            column, first, second = image.column, image.group, image.row
        elif isinstance(image, TarImage):
            first, second = image.offset, image.length
        key = (KINDS.index(type(image)), base, container_path, column)
        container = containers.setdefault(key, len(containers))
        yield entry.id, "" if image.name == entry.id else image.name, path, container, first, second


def _write(record: Record, listed: Listed, paths: ImagePaths, containers: dict[tuple[int, int, str, str], int]) -> None:
    file_names: list[str] = []

    def write(name: str, columns: Mapping[str, NDArray[Any]]) -> None:
        if not record.has(name):  # written by a killed writer, or by another process at the same time
            record.write_tensors(name, {key: torch.from_numpy(column) for key, column in columns.items()})
        file_names.append(name)

    facts: dict[str, Any] = {"name": listed.name, "content": listed.content, "notes": list(listed.notes)}
    facts |= {"images": {}, "captions": {}, "problems": len(listed.problems)}
    for split in SPLITS:
        entries = listed.splits[split]
        for number, rows in enumerate(_split_into_files(_image_rows(entries, paths, containers))):
            ids, image_names, image_paths, container_numbers, *numbers = zip(*rows, strict=True)
            columns = {
                **_text_columns("id", ids),
                **_text_columns("name", image_names),
                **_text_columns("path", image_paths),
            }
            columns["container"] = np.array(container_numbers, np.int32)
            columns["numbers"] = np.array(numbers, np.int64).T.copy()
            write(_file_name(f"{split}/images", number), columns)
        for number, texts in enumerate(_split_into_files(chain.from_iterable(entry.captions for entry in entries))):
            write(_file_name(f"{split}/captions", number), _text_columns("caption", texts))
        counts = np.fromiter((len(entry.captions) for entry in entries), np.int64, len(entries))
        image_of_caption = np.repeat(np.arange(len(entries), dtype=np.int64), counts)
        write(f"{split}/{_OWNERS}", {"image_of_caption": image_of_caption})
        facts["images"][split], facts["captions"][split] = len(entries), len(image_of_caption)
    kinds, bases, container_paths, column_names = zip(*containers, strict=True)
    container_columns = {"kind": np.array(kinds, np.int32), "base": np.array(bases, np.int32)}
    write(
        _CONTAINERS,
        {**container_columns, **_text_columns("path", container_paths), **_text_columns("column", column_names)},
    )
    for number, problems in enumerate(_split_into_files(iter(listed.problems))):
        columns = {
            **_text_columns("kind", [problem.kind for problem in problems]),
            **_text_columns("which", [problem.which for problem in problems]),
            **_text_columns("detail", [problem.detail for problem in problems]),
        }
        columns["left_out"] = np.array([problem.left_out for problem in problems], np.uint8)
        write(_file_name("problems", number), columns)
    record.finish(file_names, facts)


def _text_columns(name: str, texts: Sequence[str]) -> Columns:
    encoded = [text.encode(*_CODEC) for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return {f"{name}.bytes": np.frombuffer(bytearray().join(encoded), np.uint8), f"{name}.offsets": offsets}


def _split_into_files(rows: Iterable[Item]) -> Iterator[list[Item]]:
    rows = iter(rows)
    while part := list(islice(rows, PER_FILE)):
        yield part


def _file_name(kind: str, number: int) -> str:
    return f"{kind}-{number:05}.safetensors"


def _column_files(record: Record, kind: str, count: int) -> list[ColumnFile]:
    return [ColumnFile(record, _file_name(kind, number)) for number in range(-(-count // PER_FILE))]
