"""What the readers of annotation files share: the folders, JSON and text that may be malformed, and paths of images."""

import codecs
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydd.config import DataConfig
from raydd.data.images import FileImage
from raydd.data.listing import Split
from raydd.errors import DataError, nearest
from raydd.plain_files import expanded, read_file

MOST_BYTES = 8 * 2**30  # of an annotation file; COCO's largest has half a gigabyte

SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "restval": "train",  # Karpathy's name for the part of COCO's val that joins train
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def root_folder(config: DataConfig) -> Path:
    """The data set's folder.

    Raises:
        DataError: `data.root` is empty or is no folder.
    """
    if not config.root:
        raise DataError(
            f"data.root is empty. Set it to the folder of the data set that the reader {config.reader} reads."
        )
    root = expanded(config.root, "data.root")
    if not root.is_dir():
        raise DataError(f"data.root: {root} is not a folder. Set it to the folder of the data set.")
    return root


def named_folder(root: Path, name: str) -> Path:
    """The folder that `data.name` names in the data set's, or the data set's own if there is none."""
    return root / name if name and (root / name).is_dir() else root


def images_folder(config: DataConfig, default: Path) -> Path:
    """The folder that image paths are relative to: `data.images`, itself relative to `data.root`, or the default.

    Raises:
        DataError: there is no such folder.
    """
    folder = root_folder(config) / expanded(config.images, "data.images") if config.images else default
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} for images. Set data.images, which is relative to data.root.")
    return folder


def file_image(folder: Path, path: str) -> FileImage:
    """The image at a path that an annotation file gives; one that leads out of the data set is left out later.

    An absolute path replaces the folder.
    """
    return FileImage(path, os.path.normpath(os.path.join(folder.absolute(), path)))  # noqa: PTH118, and half the time


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it is missing, not JSON, or not UTF-8, or has a key twice.
    """
    try:
        content = read_file(path, MOST_BYTES)
        try:
            return json.loads(content, object_pairs_hook=_distinct)
        except UnicodeDecodeError:
            return json.loads(decoded(content, path), object_pairs_hook=_distinct)  # which says what it is instead
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}. {_json_files(path)}") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply for annotations. Fetch the file again.") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}). Repair the file or fetch it again.") from error
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"{path} cannot be read ({why}). Check the file and its permissions.") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; two values of one key are refused, since one of them would be lost without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return found


_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def decoded(content: bytes, path: Path) -> str:
    """The text of a file, without the mark that some programs put before UTF-8.

    Raises:
        DataError: it is in another encoding; it says which, as far as can be told, and how to convert it.
    """
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")
    where = "by its first bytes"
    if not encoding:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            where = f"byte 0x{content[error.start]:02x} in line {line} is none of UTF-8"
            encoding = "WINDOWS-1252" if _is_windows(content) else "ISO-8859-1"
    new = path.with_name(f"{path.stem}.utf8{path.suffix}")
    raise DataError(
        f"{path} is not UTF-8, but probably {encoding} ({where}). Convert it: "
        f"`iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(new))}`, and put that in its place."
    )


def _is_windows(content: bytes) -> bool:
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True


def field(row: Any, key: str, where: str, kind: type | tuple[type, ...]) -> Any:
    """One field of a JSON object.

    Raises:
        DataError: the row is no object, lacks the field, or holds another type there.
    """
    if not isinstance(row, dict):
        raise DataError(
            f"{where} is a {type(row).__name__}, but must be an object with {key!r}. Check the file's layout."
        )
    if key not in row:
        raise DataError(
            f"{where} has no {key!r}, only {', '.join(map(repr, row)) or 'nothing'}. Check the file's layout."
        )
    if not isinstance(row[key], kind):
        wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise DataError(
            f"{where}: {key!r} is a {type(row[key]).__name__}, but must be a {wanted}. Check the file's layout."
        )
    return row[key]


def split_named(word: str, where: str) -> Split:
    """The split that a word of a data set means.

    Raises:
        DataError: it is none of the usual words.
    """
    if word.lower() not in SPLIT_WORDS:
        raise DataError(f"{where} names the split {word!r}. {nearest(word, SPLIT_WORDS)}")
    return SPLIT_WORDS[word.lower()]


def split_of_path(path: Path, root: Path) -> Split | None:
    """The split that a file's name tells, or a folder's above it: `cc3m-train-0001.tar`, `validation/0000.parquet`."""
    for part in reversed(path.relative_to(root).with_suffix("").parts):
        for word in re.split(r"[^a-zA-Z]+", part):
            if word.lower() in SPLIT_WORDS:
                return SPLIT_WORDS[word.lower()]
    return None


def as_captions(value: Any) -> tuple[str, ...]:
    """One caption or a sequence of them as a tuple; None and other things that are no text become the empty caption."""
    if isinstance(value, str):
        return (value,)
    values = value if isinstance(value, Sequence) else [value]
    return tuple(each if isinstance(each, str) else "" for each in values)


def _json_files(path: Path) -> str:
    names = sorted(file.name for file in path.parent.glob("*.json"))
    if not names:
        return f"{path.parent} holds no JSON file: check data.root and data.reader."
    return f"Set data.name. {nearest(path.name, names)}"
