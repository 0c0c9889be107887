"""Functions that the readers share: find folders, read JSON and text that may be malformed, and resolve image paths."""

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

MOST_BYTES = 8 * 2**30  # largest annotation file that is read; COCO's largest has half a gigabyte

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
    """Return the data set's folder.

    Raises:
        DataError: `data.root` is empty or is not a folder.
    """
    if not config.root:
        raise DataError(
            f"data.root is empty. Set it to the folder of the data set that the reader {config.reader} reads."
        )
    root = expanded(config.root, "data.root")
    if not root.is_dir():
        raise DataError(f"data.root: {root} is not a folder. Set it to the folder of the data set.")
    return root


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Return the files below a folder, sorted. Some tools write a table as a folder of that name with parts in it."""
    return sorted(path for path in folder.rglob(pattern) if not path.is_dir())


def named_folder(root: Path, name: str) -> Path:
    """Return the subfolder `data.name` of the data set's folder if it exists, else the data set's folder."""
    return root / name if name and (root / name).is_dir() else root


def only_name(root: Path, pattern: str) -> str:
    """Return the name of the only data set of a folder: what the `*` of a pattern such as `*_train.json` stands for.

    Raises:
        DataError: no file has such a path, or several have.
    """
    before, after = pattern.rpartition("/")[2].split("*")
    names = [path.name.removeprefix(before).removesuffix(after) for path in root.glob(pattern)]
    if len(names) == 1:
        return names[0]
    if not names:
        raise DataError(f"{root} holds no {pattern}. Check data.root, or choose another data.reader.")
    raise DataError(f"{root} holds {len(names)} data sets. Set data.name. {nearest('', names)}")


def images_folder(config: DataConfig, default: Path) -> Path:
    """Return the folder that image paths are relative to: `data.images` (relative to `data.root`), or the default.

    Raises:
        DataError: the folder does not exist.
    """
    folder = root_folder(config) / expanded(config.images, "data.images") if config.images else default
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} for images. Set data.images, which is relative to data.root.")
    return folder


def file_image(folder: Path, path: str) -> FileImage:
    """Return the image at a path from an annotation file. A path that leads out of the data set is left out later.

    An absolute path replaces the folder.
    """
    return FileImage(path, os.path.normpath(os.path.join(folder.absolute(), path)))  # noqa: PTH118, in half the time


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: the file is missing, not JSON, not UTF-8, or has an object with a repeated key.
    """
    try:
        content = read_file(path, MOST_BYTES)
        try:
            return json.loads(content, object_pairs_hook=_object_without_repeats)
        except UnicodeDecodeError:
            # Raises with the probable encoding.
            return json.loads(decoded(content, path), object_pairs_hook=_object_without_repeats)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}. {_suggest_json_files(path)}") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply for annotations. Fetch the file again.") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}). Repair the file or fetch it again.") from error
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path} cannot be read ({reason}). Check the file and its permissions.") from error


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; raise an error for a repeated key, since one of its values would be lost silently."""
    json_object = dict(pairs)
    if len(json_object) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated_key = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated_key[:80]!r} occurs twice in one object")
    return json_object


_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, since this mark begins with that of UTF-16
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def decoded(content: bytes, path: Path) -> str:
    """Return the text of a file, without the byte order mark that some programs put before UTF-8.

    Raises:
        DataError: the file has another encoding. The message names the probable one and says how to convert the file.
    """
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")
    evidence = "by its first bytes"
    if not encoding:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            evidence = f"byte 0x{content[error.start]:02x} in line {line} is not valid UTF-8"
            encoding = "WINDOWS-1252" if _is_windows_1252(content) else "ISO-8859-1"
    converted_path = path.with_name(f"{path.stem}.utf8{path.suffix}")
    raise DataError(
        f"{path} is not UTF-8, but probably {encoding} ({evidence}). Convert it: "
        f"`iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(converted_path))}`, "
        "and replace the file by the result."
    )


def _is_windows_1252(content: bytes) -> bool:
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True


def field(row: Any, key: str, location: str, kind: type | tuple[type, ...]) -> Any:
    """Return one field of a JSON object.

    Raises:
        DataError: the row is not an object, or the field is missing or has another type.
    """
    if not isinstance(row, dict):
        raise DataError(
            f"{location} is a {type(row).__name__}, but must be an object with {key!r}. Check the file's layout."
        )
    if key not in row:
        raise DataError(
            f"{location} has no {key!r}, only {', '.join(map(repr, row)) or 'nothing'}. Check the file's layout."
        )
    if not isinstance(row[key], kind):
        expected = " or ".join(
            expected_type.__name__ for expected_type in (kind if isinstance(kind, tuple) else (kind,))
        )
        raise DataError(
            f"{location}: {key!r} is a {type(row[key]).__name__}, but must be a {expected}. Check the file's layout."
        )
    return row[key]


def split_named(word: str, location: str) -> Split:
    """Return the split that a word in a data set means.

    Raises:
        DataError: the word is not a usual name of a split.
    """
    if word.lower() not in SPLIT_WORDS:
        raise DataError(f"{location} names the split {word!r}. {nearest(word, SPLIT_WORDS)}")
    return SPLIT_WORDS[word.lower()]


def split_of_path(path: Path, root: Path) -> Split | None:
    """Return the split named by a file or by a folder above it: `cc3m-train-0001.tar`, `validation/0000.parquet`."""
    parts = reversed(path.relative_to(root).with_suffix("").parts)
    return next((split for part in parts if (split := split_of_name(part))), None)


def split_of_name(name: str) -> Split | None:
    """Return the split that the first usual word in a name means: test for `test_1k`, None for `latest`."""
    words = (word.lower() for word in re.split(r"[^a-zA-Z]+", name))
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def as_captions(value: Any) -> tuple[str, ...]:
    """Return one caption or a sequence of captions as a tuple. None, or any other value that is no text, becomes ""."""
    if isinstance(value, str):
        return (value,)
    values = value if isinstance(value, Sequence) else [value]
    return tuple(caption if isinstance(caption, str) else "" for caption in values)


def _suggest_json_files(path: Path) -> str:
    names = sorted(file.name for file in path.parent.glob("*.json"))
    if not names:
        return f"{path.parent} holds no JSON file: check data.root and data.reader."
    return f"Set data.name. {nearest(path.name, names)}"
