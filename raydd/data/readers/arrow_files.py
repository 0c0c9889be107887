"""Reads folders that Hugging Face's `save_to_disk` writes: `dataset_dict.json`, or `state.json` with `data-….arrow`.

The library `datasets` is not needed. The bytes of an image are contiguous in an Arrow file, so an image is read by its
offset, like a member of a tar file, and nothing is unpacked. Columns are found as in Parquet. The split comes from a
`split` column, else from a word in the name of the saved split (`test`, `validation_seen`); without a name it is train.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydd.config import DataConfig
from raydd.data.images import file_stamp
from raydd.data.listing import Entry, Listing, Problem, Split
from raydd.data.readers.columns import (
    Columns,
    find_columns,
    is_text,
    joined_listing,
    require_types,
    row_entry,
    source_at,
)
from raydd.data.readers.folders import field, images_folder, named_folder, read_json, root_folder, split_of_name
from raydd.data.readers.tar_shards import TarImage
from raydd.errors import DataError
from raydd.plain_files import is_plain, require_regular

SAVED = ("dataset_dict.json", "state.json")


def read(config: DataConfig) -> Listing:
    """List the saved data set in `data.root`, or in its subfolder `data.name` if that exists.

    Raises:
        DataError: nothing was saved there, or a file is missing, damaged, or lacks an image or a caption column.
    """
    root = root_folder(config)
    data_folder = named_folder(root, config.name)
    folder = images_folder(config, data_folder)
    files = (list_arrow(path, split_name, config, folder) for split_name, path in saved_files(data_folder))
    return joined_listing(config.name or root.resolve().name, files)


def saved_files(folder: Path) -> list[tuple[str, Path]]:
    """Return the Arrow files of a saved data set, each with the name of its split, "" if it has none.

    Raises:
        DataError: nothing was saved there, or its JSON files are malformed or name a file elsewhere.
    """
    dict_path, state_path = (folder / name for name in SAVED)
    if dict_path.is_file():
        split_names = [str(split_name) for split_name in field(read_json(dict_path), "splits", str(dict_path), list)]
    elif state_path.is_file():
        split_names = [""]
    else:
        raise DataError(
            f"{folder} holds no dataset_dict.json or state.json, as save_to_disk writes them. "
            "Check data.root, or choose another data.reader."
        )
    split_files = []
    for split_name in split_names:
        state = folder / split_name / "state.json"
        content = read_json(state)
        file_names = [
            field(row, "filename", str(state), str) for row in field(content, "_data_files", str(state), list)
        ]
        if content.get("_indices_data_files"):
            raise DataError(f"{state} was written by an old version of datasets. Load and save the data set again.")
        for name in file_names:
            path = folder / split_name / name
            if not is_plain(path, folder):
                raise DataError(f"{state} names {name}, which is not a file of the data set. Save the data set again.")
            split_files.append((split_name, path))
    return split_files


def list_arrow(path: Path, split_name: str, config: DataConfig, folder: Path) -> tuple[list[Entry], list[Problem]]:
    """List the rows of an Arrow file.

    Args:
        path: the file.
        split_name: the name of its split; "" means train.
        config: the settings, which may name the columns.
        folder: the folder that paths of image files are relative to.

    Raises:
        DataError: the file is damaged or compressed, or lacks an image or a caption column, or the name of its split
            has no usual word.
    """
    try:
        require_regular(path.stat(), path)
        with pa.memory_map(str(path)) as mapped:
            return _list_rows(mapped, path, split_name, config, folder)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as Arrow ({error}). Save it again, or move it away.") from error


def _list_rows(
    mapped: pa.MemoryMappedFile, path: Path, split_name: str, config: DataConfig, folder: Path
) -> tuple[list[Entry], list[Problem]]:
    buffer = mapped.read_buffer()
    mapped.seek(0)
    stream = pa.ipc.open_stream(mapped)
    columns = find_columns(stream.schema.names, config, str(path))
    require_types(stream.schema, columns, str(path))
    default_split = _default_split(split_name, columns, path)
    stamp, prefix = file_stamp(str(path)), f"{split_name}/{path.stem}" if split_name else path.stem
    entries: list[Entry] = []
    problems: list[Problem] = []
    number = 0
    for batch in stream:
        batch.validate(full=True)  # damaged offsets would read from anywhere in memory
        rows = batch.select(columns.light).to_pylist()
        for row, (offset, length, image_path) in zip(rows, _locate_images(batch, columns, buffer, path), strict=True):
            name = f"{prefix}:{number}"
            number += 1
            source: Any
            if length < 0:
                source = source_at(image_path, str(row.get(columns.id or "") or name), folder)
            else:
                source = TarImage(f"{path.name}:{number - 1}", str(path), offset, length, stamp)
            if isinstance(source, Problem):
                problems.append(source)
            else:
                entries.append(row_entry(row, columns, source, name, default_split, str(path)))
    return entries, problems


def _default_split(split_name: str, columns: Columns, path: Path) -> Split:
    """Return the split of the rows that have no split of their own.

    Raises:
        DataError: the name of the split has no usual word, and the file has no `split` column.
    """
    split = split_of_name(split_name) if split_name else "train"
    if split:
        return split
    if columns.split:
        return "train"  # each row has its own
    raise DataError(
        f"{path} belongs to the split {split_name!r}, which is none of train, val and test. Load the data set with "
        "datasets, save it with save_to_disk under names that have one of these words, and set data.reader to arrow."
    )


def _locate_images(
    batch: pa.RecordBatch, columns: Columns, buffer: pa.Buffer, path: Path
) -> Iterator[tuple[int, int, str | None]]:
    """Yield each image's offset in the file, its length (-1 if it has no bytes), and its path if it has one."""
    images = batch.column(columns.image)
    image_paths: Sequence[str | None] = [None] * len(images)
    content: pa.Array | None = images
    if is_text(images.type):
        image_paths, content = images.to_pylist(), None
    elif pa.types.is_struct(images.type):
        names = [item.name for item in images.type]
        content = images.field("bytes") if "bytes" in names else None
        image_paths = images.field("path").to_pylist() if "path" in names else image_paths
    if content is None or pa.types.is_null(content.type) or not len(content):
        yield from ((0, -1, image_path) for image_path in image_paths)
        return
    offsets = _value_offsets(content, buffer, path)
    has_bytes = np.asarray(content.is_valid()) & np.asarray(images.is_valid())
    lengths = np.where(has_bytes, np.diff(offsets), -1)
    yield from zip(offsets[:-1].tolist(), lengths.tolist(), image_paths, strict=True)


def _value_offsets(content: pa.Array, buffer: pa.Buffer, path: Path) -> NDArray[np.int64]:
    """Return where each value of a column of bytes begins in the file, and where the last value ends."""
    _, offsets, data = content.buffers()
    dtype = np.int64 if pa.types.is_large_binary(content.type) else np.int32
    starts = np.frombuffer(offsets, dtype)[content.offset : content.offset + len(content) + 1].astype(np.int64)
    if data is None or not data.size:
        return starts * 0
    start = data.address - buffer.address
    if not 0 <= start <= start + data.size <= buffer.size:
        raise DataError(f"{path} is compressed, so its images cannot be read. Save it again with save_to_disk.")
    return starts + start
