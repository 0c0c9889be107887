"""Finds the columns of images, captions and ids, and turns rows into entries: for CSV, Parquet and Arrow.

`data.image_column` and `data.caption_column` name the columns; otherwise columns are found by their usual names,
regardless of case. Captions are a text, a list of texts or of objects with `raw`, or numbered columns (caption_0,
caption_1, ...).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raydd.config import DataConfig
from raydd.data.images import FileImage, ImageSource
from raydd.data.joining import join_files
from raydd.data.listing import Entry, Listing, Problem, Split
from raydd.data.readers.folders import as_captions, file_image, split_named
from raydd.errors import DataError

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp", "image_bytes")
PATH_COLUMNS = ("image_path", "img_path", "image_name", "file_name", "filename", "filepath", "file", "path")
CAPTION_COLUMNS = (
    *("caption", "captions", "text", "texts", "sentences", "sentence", "sentences_raw", "description"),
    *("txt", "alt", "alt_text", "comment", "raw"),
)
ID_COLUMNS = ("image_id", "img_id", "cocoid", "filename", "file_name")


@dataclass(frozen=True)
class Columns:
    """The columns of a file, by what they hold."""

    image: str
    """The column of image bytes or paths; for a struct, only the struct's name."""
    captions: tuple[str, ...]
    id: str | None
    split: str | None = None
    group: str | None = None

    @property
    def light(self) -> tuple[str, ...]:
        """All columns but that of the images, without repetitions."""
        return tuple(dict.fromkeys((*self.captions, *filter(None, (self.id, self.split, self.group)))))


def find_columns(names: Sequence[str], config: DataConfig, location: str) -> Columns:
    """Find the columns of images, captions, ids, splits and groups of a file.

    Args:
        names: names of all columns.
        config: the settings, which may name columns.
        location: the file, for messages.

    Raises:
        DataError: the settings name a column that does not exist, or no column has a usual name. The message lists all
            columns.
    """
    image = _configured_column(config.image_column, "data.image_column", names, location)
    image = image or _find_usual(IMAGE_COLUMNS, names) or _find_usual(PATH_COLUMNS, names)
    caption = _configured_column(config.caption_column, "data.caption_column", names, location) or _find_usual(
        CAPTION_COLUMNS, names
    )
    numbered = [name for name in names if re.fullmatch(r"(caption|sentence|text)_?\d+", name, re.IGNORECASE)]
    for kind, column in (("image", image), ("caption", caption or numbered)):
        if not column:
            raise DataError(
                f"{location} has no {kind} column of a usual name; its columns are {', '.join(names) or 'none'}. "
                f"Name it in data.{kind}_column."
            )
    assert image
    captions = (caption,) if caption else tuple(sorted(numbered, key=lambda name: int(re.sub(r"\D", "", name))))
    id_column = _find_usual([name for name in ID_COLUMNS if name != image.lower()], names)
    return Columns(image, captions, id_column, _find_usual(("split",), names), _find_usual(("group",), names))


def require_types(schema: pa.Schema, columns: Columns, location: str) -> None:
    """Raise an error if a column cannot hold images or captions.

    Raises:
        DataError: a column has a wrong type. The message names the column, what it holds, and what it must hold.
    """
    kind = schema.field(columns.image).type
    if not (_is_bytes(kind) or is_text(kind) or _is_image_struct(kind)):
        raise DataError(
            f"{location}: the image column {columns.image!r} holds {kind}, but must hold bytes, paths, or structs of "
            "bytes and path. Name another one in data.image_column."
        )
    for name in columns.captions:
        kind = schema.field(name).type
        if not (is_text(kind) or is_text(_item_type(kind)) or pa.types.is_struct(_item_type(kind))):
            raise DataError(
                f"{location}: the caption column {name!r} holds {kind}, but must hold a text or a list of texts. "
                "Name another one in data.caption_column."
            )


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column's type is text, or the column holds only nulls."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def source_at(path: Any, row_name: str, folder: Path) -> FileImage | Problem:
    """Return the image file that a row names.

    Args:
        path: the path in the row.
        row_name: the row, for a message.
        folder: the folder that paths are relative to.

    Raises:
        DataError: the path is a web address.
    """
    if not path:
        return Problem("missing image", row_name, "it has neither bytes nor a path")
    if re.match(r"https?://", path):
        raise DataError(
            f"{row_name} is at {path[:80]}, and raydd downloads no images. Download them, with img2dataset for "
            "example, and read the result."
        )
    return file_image(folder, path)


def row_entry(
    row: Mapping[str, Any], columns: Columns, source: ImageSource, name: str, default_split: Split, location: str
) -> Entry:
    """Return the entry of a row.

    Args:
        row: the row, without the image.
        columns: the columns of the file.
        source: the row's image.
        name: the entry's id, if the data has none.
        default_split: the entry's split, if the data has none.
        location: the file, for messages.

    Raises:
        DataError: the row's split is not a known split.
    """
    entry_id = row[columns.id] if columns.id else None
    has_id = entry_id not in (None, "")
    if not has_id:
        entry_id = source.name if isinstance(source, FileImage) else name
    captions = tuple(text for column in columns.captions for text in as_captions(_caption_texts(row[column])))
    split = split_named(str(row[columns.split]), location) if columns.split else default_split
    group = row[columns.group] if columns.group else None
    named = has_id or isinstance(source, FileImage)
    return Entry(split, str(entry_id), source, captions, "" if group is None else str(group), named)


def joined_listing(name: str, files: Iterable[tuple[list[Entry], list[Problem]]]) -> Listing:
    """Return the entries and faults of all files of a data set as one listing; rows of the same file are joined."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    for file_entries, faults in files:
        entries += file_entries
        problems += faults
    return Listing(name, tuple(join_files(entries)), tuple(problems))


def _configured_column(name: str, setting: str, names: Sequence[str], location: str) -> str:
    if name and name not in names:
        raise DataError(
            f"{location} has no column {name!r}, which {setting} names; its columns are {', '.join(names)}."
        )
    return name


def _find_usual(usual_names: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in usual_names if name in lower), None)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    holds_bytes = "bytes" in fields and (_is_bytes(fields["bytes"]) or pa.types.is_null(fields["bytes"]))
    return holds_bytes or ("path" in fields and is_text(fields["path"]))


def _item_type(kind: pa.DataType) -> pa.DataType:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return kind.value_type if any(is_a(kind) for is_a in lists) else pa.int8()


def _caption_texts(value: Any) -> Any:
    if isinstance(value, list):
        return [item.get("raw", item.get("caption")) if isinstance(item, dict) else item for item in value]
    return value
