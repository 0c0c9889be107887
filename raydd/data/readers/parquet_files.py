"""Parquet with image bytes and captions, as Hugging Face's data sets are: `train-00000-of-00004.parquet`, `data/…`.

The columns are found by their usual names. Image: bytes, or a struct of bytes and path. Captions: a text, a list of
texts or of objects with `raw`, or numbered columns (caption_0, caption_1, ...). The split comes from a `split` column,
else from the file's or folder's name, else it is train. Rows of one id with the same image are joined.
"""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydd.config import DataConfig
from raydd.data.images import ImageSource, file_stamp
from raydd.data.listing import Entry, Listing, Problem, Split
from raydd.data.readers.folders import as_captions, file_image, images_folder, root_folder, split_named, split_of_path
from raydd.errors import DataError
from raydd.plain_files import require_regular

BLOCK = 32  # rows read at a time
KEPT = 4  # blocks that stay in memory: threads that read ahead of each other find theirs


@dataclass(frozen=True, slots=True)
class ParquetImage:
    """The image bytes of one row. Reading rows in order streams the file once."""

    name: str
    path: str
    column: str
    """`image`, or `image.bytes` for a struct."""
    group: int
    """Index of the row group."""
    row: int
    """Index of the row in its group."""
    file_stamp: str = field(default="", compare=False, repr=False)
    """Stamp of the file when it was listed, so that its rows need not ask the disk; "" asks it."""

    def read(self) -> bytes:
        """The row's bytes."""
        try:
            content = _images_of(self.path, self.column, self.group, _version(self.path))[self.row]
        except (pa.ArrowException, IndexError, KeyError) as error:
            raise OSError(f"damaged Parquet data: {error}") from error
        if content is None:
            raise FileNotFoundError(self.name)
        return content

    def stamp(self) -> str:
        """The file's stamp with column, row group and row; "" if there is no such file."""
        file = self.file_stamp or file_stamp(self.path)
        return f"{file} {self.column} {self.group} {self.row}" if file else ""


class _Images:
    """One column of one row group: forward in a stream, backward by starting again."""

    def __init__(self, path: str, column: str, group: int) -> None:
        self._path, self._column, self._group = path, column, group
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, pa.Array] = OrderedDict()
        self._stream: Iterator[tuple[int, pa.Array]] = iter(())
        self._next = -1  # the block that the stream gives next; none before the first request

    def __getitem__(self, row: int) -> bytes | None:
        block, place = divmod(row, BLOCK)
        with self._lock:
            if block not in self._kept:
                self._fetch(block)
            return self._kept[block][place].as_py()

    def _fetch(self, block: int) -> None:
        if not 0 <= self._next <= block:
            self._stream, self._next = _blocks(self._path, self._column, self._group), 0
        while self._next <= block:
            found = next(self._stream, None)
            if found is None:  # a StopIteration would end whoever reads images in a row, and in silence
                raise pa.ArrowInvalid("there are fewer rows than the file says")
            number, images = found
            self._kept[number] = images
            self._kept.move_to_end(number)
            self._next = number + 1
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)


def _blocks(path: str, column: str, group: int) -> Iterator[tuple[int, pa.Array]]:
    """The blocks of a column of a row group in order.

    No method: a stream that knew its `_Images` would make a circle, whose megabytes wait for the garbage collector.
    """
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        batches = file.iter_batches(BLOCK, row_groups=[group], columns=[column], use_threads=False)
        for number, batch in enumerate(batches):
            images = batch.column(0)
            yield number, images.field("bytes") if isinstance(images, pa.StructArray) else images


def _version(path: str) -> tuple[int, ...]:
    state = os.stat(path)  # noqa: PTH116, a Path costs more than the call
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


@lru_cache(maxsize=4)
def _images_of(path: str, column: str, group: int, version: tuple[int, ...]) -> _Images:  # noqa: ARG001
    # The version is part of the key: blocks of a file that was written anew must not serve its old images.
    return _Images(path, column, group)


IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp", "image_bytes")
CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "sentences", "sentence", "sentences_raw", "description")
ID_COLUMNS = ("image_id", "img_id", "cocoid", "filename", "file_name", "key")


@dataclass(frozen=True)
class Columns:
    """Which columns of a file hold what."""

    image: str
    """The column of image bytes or paths; of a struct, its name alone."""
    struct: bool
    captions: tuple[str, ...]
    id: str | None


def read(config: DataConfig) -> Listing:
    """Every Parquet file under `data.root`, or under its folder `data.name` if there is one.

    Raises:
        DataError: there is no Parquet file, one is damaged, or one lacks an image or a caption column.
    """
    root = root_folder(config)
    place = root / config.name if config.name and (root / config.name).is_dir() else root
    folder = images_folder(config, root)
    entries: list[Entry] = []
    problems: list[Problem] = []
    files = sorted(place.rglob("*.parquet"))
    if not files:
        raise DataError(f"{place} holds no *.parquet file. Check data.root, or choose another data.reader.")
    for path in files:
        found, faults = _read_file(path, place, folder)
        entries += found
        problems += faults
    entries, faults = _join(entries)
    return Listing(config.name or root.resolve().name, tuple(entries), tuple(problems + faults))


def find_columns(schema: pa.Schema, path: Path) -> Columns:
    """The image, caption and id columns of a file.

    Raises:
        DataError: none of the usual names is there; it lists those that are.
    """
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    named = next((name for name in CAPTION_COLUMNS if name in schema.names), None)
    numbered = [name for name in schema.names if re.fullmatch(r"(caption|sentence|text)_?\d+", name)]
    if image is None or not (named or numbered):
        what = f"no image column ({', '.join(IMAGE_COLUMNS)})" if image is None else "no caption column"
        raise DataError(
            f"{path} has {what}; its columns are {', '.join(schema.names)}. "
            f"Rename them: {IMAGE_COLUMNS[0]} for the image, {CAPTION_COLUMNS[0]} for the captions."
        )
    captions = (named,) if named else tuple(sorted(numbered, key=lambda name: int(re.sub(r"\D", "", name))))
    ids = next((name for name in ID_COLUMNS if name in schema.names), None)
    return Columns(image, pa.types.is_struct(schema.field(image).type), captions, ids)


def _read_file(path: Path, root: Path, folder: Path) -> tuple[list[Entry], list[Problem]]:
    try:
        require_regular(path.stat(), path)  # a pipe would never be open
        with pq.ParquetFile(path) as file:
            columns = find_columns(file.schema_arrow, path)
            rows = file.read(_light_columns(file.schema_arrow, columns)).to_pylist()
            sources = _sources(path, file.metadata, columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}). Fetch it again, or move it away.") from error
    default = split_of_path(path, root) or "train"
    entries: list[Entry] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows):
        source = sources[number] or _at_path(row, columns, folder)
        if isinstance(source, Problem):
            problems.append(source)
            continue
        entries.append(
            _entry(row, columns, f"{path.relative_to(root).with_suffix('')}:{number}", source, default, path)
        )
    return entries, problems


def _light_columns(schema: pa.Schema, columns: Columns) -> list[str]:
    names = [*columns.captions, *(name for name in (columns.id, "split", "group") if name in schema.names)]
    kind = schema.field(columns.image).type
    if columns.struct and kind.get_field_index("path") >= 0:
        names.append(f"{columns.image}.path")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        names.append(columns.image)
    return names


def _sources(path: Path, metadata: pq.FileMetaData, columns: Columns) -> list[ParquetImage | None]:
    leaf = f"{columns.image}.bytes" if columns.struct else columns.image
    position = next((i for i in range(metadata.num_columns) if metadata.schema.column(i).path == leaf), None)
    if position is None or not _holds_bytes(metadata.schema.column(position)):
        return [None] * metadata.num_rows
    sources: list[ParquetImage | None] = []
    stamp = file_stamp(str(path))
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(position)
        rows = metadata.row_group(group).num_rows
        absent = chunk.statistics is not None and chunk.statistics.null_count == rows
        first = len(sources)
        sources += [
            None if absent else ParquetImage(f"{path.name}:{first + row}", str(path), leaf, group, row, stamp)
            for row in range(rows)
        ]
    return sources


def _holds_bytes(column: pq.ColumnSchema) -> bool:
    return column.physical_type == "BYTE_ARRAY" and column.logical_type.type != "STRING"


def _at_path(row: Mapping[str, Any], columns: Columns, folder: Path) -> ImageSource | Problem:
    value = row.get(columns.image)
    path = value.get("path") if isinstance(value, dict) else value
    if not path:
        return Problem(
            "missing image", str(row.get(columns.id or "", columns.image)), "it has neither bytes nor a path"
        )
    return file_image(folder, path)


def _entry(
    row: Mapping[str, Any], columns: Columns, name: str, source: ImageSource, default: Split, path: Path
) -> Entry:
    given = row[columns.id] if columns.id else None
    captions = tuple(text for column in columns.captions for text in as_captions(_texts(row[column])))
    split = split_named(str(row["split"]), str(path)) if "split" in row else default
    return Entry(split, name if given is None else str(given), source, captions, str(row.get("group") or ""))


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [each.get("raw", each.get("caption")) if isinstance(each, dict) else each for each in value]
    return value


def _join(entries: Sequence[Entry]) -> tuple[list[Entry], list[Problem]]:
    joined: dict[tuple[Split, str], Entry] = {}
    problems = []
    for entry in entries:
        key = (entry.split, entry.id)
        first = joined.setdefault(key, entry)
        if first is entry:
            continue
        if _content(first.image) == _content(entry.image):
            joined[key] = replace(first, captions=first.captions + entry.captions)
        else:
            problems.append(
                Problem("duplicate id", entry.id, f"{entry.image.name} is another image than {first.image.name}")
            )
    return list(joined.values()), problems


def _content(image: ImageSource) -> bytes | None:
    try:
        return image.read()
    except OSError:  # a missing image becomes a Problem of its own when all images are checked
        return None
