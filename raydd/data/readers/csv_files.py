"""Reads tables with one row per caption: CSV, TSV, or separated by `;` or `|`. The first line names the columns.

`data.name` is the table's file, or its name without the ending; `NAME_train.csv` and `NAME_test.csv` are one data set.
Image paths are relative to `data.images`, else to the table's folder. Columns are found as in Parquet. The split comes
from a column `split`, else from the name of the file or of its folder; the default is train.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from raydd.config import DataConfig
from raydd.data.listing import Entry, Listing, Problem
from raydd.data.readers.columns import Columns, find_columns, joined_listing, row_entry, source_at
from raydd.data.readers.folders import (
    MOST_BYTES,
    SPLIT_WORDS,
    decoded,
    images_folder,
    root_folder,
    split_of_path,
)
from raydd.errors import DataError, nearest
from raydd.plain_files import is_plain, read_file

ENDINGS = (".csv", ".tsv")
_SEPARATORS = (",", "\t", ";", "|")
# A word of its own, as split_of_path reads names: test of flickr_test and coco2017test, but not of latest.
_SPLIT_END = re.compile(rf"[-_. ]?(?<![a-z])({'|'.join(SPLIT_WORDS)})$", re.IGNORECASE)


def read(config: DataConfig) -> Listing:
    """List the tables that `data.name` names, or those of the only data set in `data.root`.

    Raises:
        DataError: there is no such table or too many, one is malformed, not UTF-8, or lacks a column.
    """
    root = root_folder(config)
    tables = (_read_table(path, root, config) for path in find_tables(root, config.name))
    return joined_listing(config.name or root.resolve().name, tables)


def find_tables(root: Path, name: str) -> list[Path]:
    """Return the tables of a data set: all in the folder, or all in its subfolders if the folder holds none.

    Raises:
        DataError: there is no table, or there are tables of several data sets and no name.
    """
    if name and (root / name).is_file():
        return [root / name]
    tables = tables_in(root)
    chosen = [path for path in tables if not name or name in (path.stem, data_set_of(path))]
    if not tables:
        raise DataError(f"{root} holds no *.csv or *.tsv file. Check data.root, or choose another data.reader.")
    names = {data_set_of(path) for path in chosen}
    if not chosen or len(names) > 1:
        known_names = {data_set_of(path) or path.stem for path in tables}
        raise DataError(
            f"{root} holds {len(tables)} tables, and data.name must say which to read. {nearest(name, known_names)}"
        )
    return chosen


def tables_in(root: Path) -> list[Path]:
    """Return the CSV and TSV files of a folder, else those of its subfolders, sorted, without hidden files."""
    for pattern in ("*", "*/*"):
        tables = (path for path in root.glob(pattern) if path.suffix.lower() in ENDINGS and not path.is_dir())
        if visible := sorted(path for path in tables if "/." not in f"/{path.relative_to(root).as_posix()}"):
            return visible
    return []


def data_set_of(table: Path) -> str:
    """Return the name of a table's data set: the file's name without ending and split; "" for `train.csv`."""
    return _SPLIT_END.sub("", table.stem)


def header_of(path: Path, config: DataConfig) -> tuple[Columns, list[str], str]:
    """Return the columns that raydd uses of a table, the names of all columns, and their separator.

    Raises:
        DataError: the table cannot be read, or has no column of images or captions.
    """
    return _find_header(_read_text(path, path.parent), config, path)


def _read_text(path: Path, root: Path) -> str:
    if path.is_symlink() and not is_plain(path, root):
        raise DataError(f"{path} links to something outside the data set. Replace the link by the file itself.")
    try:
        return decoded(read_file(path, MOST_BYTES), path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}). Check the file.") from error


def _find_header(text: str, config: DataConfig, path: Path) -> tuple[Columns, list[str], str]:
    """Use the first separator that gives the needed columns in the first line, else the one that gives most columns."""
    first_line = re.split(r"\r\n|\r|\n", text[:_LONGEST_HEADER], maxsplit=1)[0]
    candidates: list[tuple[list[str], str]] = []
    for separator in _SEPARATORS:
        try:
            names = [name.strip() for name in next(csv.reader([first_line], delimiter=separator, strict=True), [])]
            candidates.append((names, separator))
            columns = find_columns(names, config, str(path))
        except (DataError, csv.Error):
            continue
        _require_distinct(names, columns, path)
        return columns, names, separator
    names, separator = max(candidates, key=lambda candidate: len(candidate[0]), default=([first_line], ","))
    shown_names = [name[:40] for name in names[:20]]
    return find_columns(shown_names, config, f"{path}, whose first line has to name the columns,"), names, separator


def _require_distinct(names: Sequence[str], columns: Columns, path: Path) -> None:
    """Raise an error if two columns that raydd uses have the same name, since the values of one would be lost."""
    repeated = next((name for name in (columns.image, *columns.light) if names.count(name) > 1), None)
    if repeated:
        raise DataError(f"{path} has two columns {repeated!r}. Give each a name of its own: caption_0, caption_1, ...")


_LONGEST_HEADER = 2**16


def _read_table(path: Path, root: Path, config: DataConfig) -> tuple[list[Entry], list[Problem]]:
    text = _read_text(path, root)
    columns, names, separator = _find_header(text, config, path)
    folder, table_folder = images_folder(config, root), PurePosixPath(path.parent.relative_to(root))
    default_split = split_of_path(path, root) or "train"
    entries: list[Entry] = []
    problems: list[Problem] = []
    rows, shown_path = _read_rows(text, separator, path), str(path.relative_to(root))
    next(rows, None)
    for line, cells in rows:
        row_name = f"{shown_path} line {line}"
        if len(cells) != len(names):
            detail = (
                f"{len(cells)} columns, but the first line names {len(names)}: quote a text that holds {separator!r}"
            )
            problems.append(Problem("malformed row", row_name, detail))
            continue
        row = dict(zip(names, (cell.strip() for cell in cells), strict=True))
        name = row[columns.image]
        keep_path = config.images or not name or "://" in name or not table_folder.name
        source = source_at(name if keep_path else str(table_folder / name), row_name, folder)
        if isinstance(source, Problem):
            problems.append(Problem(source.kind, row_name, "the row names no image"))
        else:
            entries.append(row_entry(row, columns, source, row_name, default_split, f"{path} line {line}"))
    return entries, problems


def _read_rows(text: str, separator: str, path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield each row that is not empty, with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        first_line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            reason = "a quotation mark is not closed" if "end of data" in str(error) else error
            raise DataError(
                f"{path}, the row from line {first_line} on, is malformed ({reason}). Quote a text that holds a "
                'quotation mark, and write the mark twice: "a ""big"" dog".'
            ) from error
        if cells is None:
            return
        if any(cells):
            yield reader.line_num, cells
