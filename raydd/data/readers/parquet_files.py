"""Reads Parquet files with images and captions, as of Hugging Face data sets: `train-00000-of-00004.parquet`, `data/…`.

Images are bytes, a struct of bytes and path, or paths of files below `data.images`; `raydd.data.readers.columns` says
how columns are found. The split comes from a `split` column, else from the name of the file or of
its folder; the default is train. `raydd.data.joining` joins the rows of an image.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raydd.config import DataConfig
from raydd.data.images import file_stamp
from raydd.data.listing import Entry, Listing, Problem
from raydd.data.readers.columns import (
    Columns,
    find_columns,
    is_text,
    joined_listing,
    require_types,
    row_entry,
    source_at,
)
from raydd.data.readers.folders import files_below, images_folder, named_folder, root_folder, split_of_path
from raydd.errors import DataError
from raydd.plain_files import require_regular

BLOCK = 32  # rows read at a time
KEPT = 4  # blocks that stay in memory, so that threads that read at different places find theirs


@dataclass(frozen=True, slots=True)
class ParquetImage:
    """The image bytes of one row. If rows are read in order, the file is streamed once."""

    name: str
    path: str
    column: str
    """Name of the column: `image`, or `image.bytes` for a struct."""
    group: int
    """Index of the row group."""
    row: int
    """Index of the row in its group."""
    file_stamp: str = field(default="", compare=False, repr=False)
    """Stamp of the file when it was listed, so that rows need not look it up on disk; "" looks it up."""

    def read(self) -> bytes:
        """Return the bytes of the image."""
        try:
            content = _open_images(self.path, self.column, self.group, _file_version(self.path))[self.row]
        except (pa.ArrowException, IndexError, KeyError) as error:
            raise OSError(f"damaged Parquet data: {error}") from error
        if content is None:
            raise FileNotFoundError(self.name)
        return content

    def stamp(self) -> str:
        """Return the file's stamp with column, row group and row; "" if there is no such file."""
        file = self.file_stamp or file_stamp(self.path)
        return f"{file} {self.column} {self.group} {self.row}" if file else ""


class _Images:
    """One column of one row group. Reading forward streams it; reading backward starts again."""

    def __init__(self, path: str, column: str, group: int) -> None:
        self._path, self._column, self._group = path, column, group
        self._lock = threading.Lock()
        self._cached_blocks: OrderedDict[int, pa.Array] = OrderedDict()
        self._stream: Iterator[tuple[int, pa.Array]] = iter(())
        self._next_number = -1  # the next block of the stream; -1 before the first request

    def __getitem__(self, row: int) -> bytes | None:
        block, row_in_block = divmod(row, BLOCK)
        with self._lock:
            if block not in self._cached_blocks:
                self._fetch(block)
            return self._cached_blocks[block][row_in_block].as_py()

    def _fetch(self, block: int) -> None:
        if not 0 <= self._next_number <= block:
            self._stream, self._next_number = _blocks(self._path, self._column, self._group), 0
        while self._next_number <= block:
            next_block = next(self._stream, None)
            if next_block is None:  # a StopIteration would silently end a loop over images
                raise pa.ArrowInvalid("there are fewer rows than the file says")
            number, images = next_block
            self._cached_blocks[number] = images
            self._cached_blocks.move_to_end(number)
            self._next_number = number + 1
            if len(self._cached_blocks) > KEPT:
                self._cached_blocks.popitem(last=False)


def _blocks(path: str, column: str, group: int) -> Iterator[tuple[int, pa.Array]]:
    """Yield the blocks of a column of a row group in order.

    This is not a method: a stream that refers to its `_Images` would be a reference cycle, whose megabytes stay until
    the garbage collector runs.
    """
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        batches = file.iter_batches(BLOCK, row_groups=[group], columns=[column], use_threads=False)
        for number, batch in enumerate(batches):
            images = batch.column(0)
            yield number, images.field("bytes") if isinstance(images, pa.StructArray) else images


def _file_version(path: str) -> tuple[int, ...]:
    status = os.stat(path)  # noqa: PTH116, a Path costs more than the call
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@lru_cache(maxsize=4)
def _open_images(path: str, column: str, group: int, version: tuple[int, ...]) -> _Images:  # noqa: ARG001
    # The version is part of the cache's key, so that a rewritten file does not return its old images.
    return _Images(path, column, group)


def read(config: DataConfig) -> Listing:
    """List every Parquet file under `data.root`, or under its subfolder `data.name` if that exists.

    Raises:
        DataError: there is no Parquet file, or one is damaged or lacks an image or a caption column.
    """
    root = root_folder(config)
    data_folder = named_folder(root, config.name)
    image_folder = images_folder(config, root)
    files = files_below(data_folder, "*.parquet")
    if not files:
        raise DataError(f"{data_folder} holds no *.parquet file. Check data.root, or choose another data.reader.")
    file_contents = (_read_file(path, data_folder, image_folder, config) for path in files)
    return joined_listing(config.name or root.resolve().name, file_contents)


def columns_of(path: Path, config: DataConfig) -> Columns:
    """Return the columns of a Parquet file.

    Raises:
        DataError: the file is damaged, or has no column of images or of captions.
    """
    with _open_parquet(path) as file:
        return _checked_columns(file, path, config)


@contextlib.contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        require_regular(path.stat(), path)  # opening a pipe would block forever
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}). Fetch it again, or move it away.") from error


def _checked_columns(file: pq.ParquetFile, path: Path, config: DataConfig) -> Columns:
    columns = find_columns(file.schema_arrow.names, config, str(path))
    require_types(file.schema_arrow, columns, str(path))
    return columns


def _read_file(path: Path, root: Path, folder: Path, config: DataConfig) -> tuple[list[Entry], list[Problem]]:
    with _open_parquet(path) as file:
        columns = _checked_columns(file, path, config)
        image_type = file.schema_arrow.field(columns.image).type
        leaf = (
            "" if is_text(image_type) else f"{columns.image}.bytes" if pa.types.is_struct(image_type) else columns.image
        )
        rows = file.read(_light_columns(image_type, columns)).to_pylist()
        sources = _image_sources(path, file.metadata, leaf)
    default_split = split_of_path(path, root) or "train"
    entries: list[Entry] = []
    problems: list[Problem] = []
    for number, (row, source) in enumerate(zip(rows, sources, strict=True)):
        if source is None:
            value = row.get(columns.image)
            row_name = str(row.get(columns.id or "") or f"{path.name}:{number}")
            source = source_at(value.get("path") if isinstance(value, dict) else value, row_name, folder)
        if isinstance(source, Problem):
            problems.append(source)
            continue
        name = f"{path.relative_to(root).with_suffix('')}:{number}"
        entries.append(row_entry(row, columns, source, name, default_split, str(path)))
    return entries, problems


def _light_columns(kind: pa.DataType, columns: Columns) -> list[str]:
    """Return the columns to read as a whole: all but the images, of which only the paths are read."""
    if is_text(kind):
        return list(dict.fromkeys((*columns.light, columns.image)))
    has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    return [*columns.light, *([f"{columns.image}.path"] if has_path else [])]


def _image_sources(path: Path, metadata: pq.FileMetaData, leaf: str) -> list[ParquetImage | None]:
    """Return where the bytes of each row's image are; None for rows without bytes."""
    position = next(
        (index for index in range(metadata.num_columns) if metadata.schema.column(index).path == leaf), None
    )
    if position is None or metadata.schema.column(position).physical_type != "BYTE_ARRAY":
        return [None] * metadata.num_rows
    sources: list[ParquetImage | None] = []
    stamp = file_stamp(str(path))
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(position)
        rows = metadata.row_group(group).num_rows
        null_count = chunk.statistics.null_count if chunk.statistics is not None else 0
        is_null = [null_count == rows] * rows
        if 0 < (null_count or 0) < rows:  # only then are the bytes read to see whose are missing
            is_null = [null for _, images in _blocks(str(path), leaf, group) for null in images.is_null().to_pylist()]
        first_row = len(sources)
        sources += [
            None if is_null[row] else ParquetImage(f"{path.name}:{first_row + row}", str(path), leaf, group, row, stamp)
            for row in range(rows)
        ]
    return sources
