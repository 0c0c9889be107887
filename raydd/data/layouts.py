"""Finds out which layouts a folder has, from the files in it, the most specific layout first. `raydd init` uses it."""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from raydd.config import DataConfig
from raydd.data.images import SUFFIXES
from raydd.data.readers import csv_files, parquet_files, txt_files
from raydd.data.readers.arrow_files import SAVED
from raydd.data.readers.folders import files_below, root_folder
from raydd.errors import DataError
from raydd.plain_files import is_plain

_MOST = 10_000  # most images or tar members to look at


@dataclass(frozen=True)
class Layout:
    """One layout that fits a folder."""

    why: str
    """What was found in the folder."""
    data: DataConfig
    """Settings that read the folder."""


def find_layouts(config: DataConfig) -> list[Layout]:
    """Return the layouts that fit `data.root`, the most specific first; only that of `data.reader` if a reader is set.

    Args:
        config: settings that the user gave are kept: reader, name, images, columns.

    Raises:
        DataError: no layout fits. The message says which layout nearly fits, or what was looked for.
    """
    root = root_folder(config)
    if config.reader != DataConfig().reader:
        return [Layout("data.reader names it", config)]
    layouts: list[Layout] = []
    errors: list[DataError] = []
    for find in _FINDERS:
        try:
            for layout in find(root, config):
                layouts.append(layout)  # noqa: PERF402 - layouts found before the error are kept
        except DataError as error:
            errors.append(error)
    layouts = [layout for layout in layouts if config.name in ("", layout.data.name)]
    if layouts:
        return layouts
    if errors:
        raise errors[0]
    raise DataError(
        f"{root} has no layout that raydd knows: no dataset_NAME.json, annotations/captions_train*.json, "
        "NAME_train.json, dataset_dict.json, *.tar, *.parquet, *.csv, *.tsv, and no image. See docs/data.md."
    )


def _find_karpathy(root: Path, config: DataConfig) -> Iterator[Layout]:
    for path in sorted(root.glob("dataset_*.json")):
        if path.stem not in ("dataset_info", "dataset_infos", "dataset_dict"):  # files of Hugging Face
            data = replace(config, reader="karpathy", name=path.stem.removeprefix("dataset_"))
            yield Layout(f"{path.name} is there", data)


def _find_coco(root: Path, config: DataConfig) -> Iterator[Layout]:
    for path in sorted((root / "annotations").glob("captions_train*.json")):
        year = path.stem.removeprefix("captions_train")
        folders = ["", *sorted(subfolder.name for subfolder in root.iterdir() if subfolder.is_dir())]
        images = next((folder for folder in folders if (root / folder / f"train{year}").is_dir()), "")
        data = replace(config, reader="coco", name=year, images=config.images or images)
        yield Layout(f"annotations/{path.name} is there", data)


def _find_flat_json(root: Path, config: DataConfig) -> Iterator[Layout]:
    for path in sorted(root.glob("*_train.json")):
        data = replace(config, reader="flat-json", name=path.name.removesuffix("_train.json"))
        yield Layout(f"{path.name} is there", data)


def _find_arrow(root: Path, config: DataConfig) -> Iterator[Layout]:
    dict_file, state_file = SAVED
    if (root / dict_file).is_file():
        yield Layout(f"{dict_file} is there, as save_to_disk writes it", replace(config, reader="arrow"))
    elif (root / state_file).is_file() and any(root.glob("*.arrow")):
        yield Layout(
            f"{state_file} and *.arrow are there, as save_to_disk writes them", replace(config, reader="arrow")
        )


def _find_webdataset(root: Path, config: DataConfig) -> Iterator[Layout]:
    shards = files_below(root, "*.tar")
    if shards and _holds_images(shards[0]):
        reason = f"{len(shards)} *.tar, such as {shards[0].relative_to(root)}, with images"
        yield Layout(reason, replace(config, reader="webdataset"))


def _holds_images(shard: Path) -> bool:
    try:
        if not is_plain(shard, shard.parent):
            return False
        with tarfile.open(shard, "r:") as tar:
            return any(member.name.lower().endswith(SUFFIXES) for member in islice(tar, _MOST))
    except (tarfile.TarError, OSError):
        return False


def _find_parquet(root: Path, config: DataConfig) -> Iterator[Layout]:
    files = files_below(root, "*.parquet")
    if files:
        columns = parquet_files.columns_of(files[0], config)
        reason = f"{len(files)} *.parquet with the columns {columns.image} and {', '.join(columns.captions)}"
        yield Layout(reason, replace(config, reader="parquet"))


def _find_csv(root: Path, config: DataConfig) -> Iterator[Layout]:
    tables = csv_files.tables_in(root)
    tables_by_name = {csv_files.data_set_of(path): path for path in reversed(tables)}
    text_files = [path for path in islice(root.glob("*.txt"), _TEXTS + 1) if path.is_file()]  # Kaggle's captions.txt
    if len(text_files) <= _TEXTS:
        tables_by_name |= {path.name: path for path in sorted(text_files)}
    errors: list[DataError] = []
    for name, path in sorted(tables_by_name.items()):
        try:
            columns, _, separator = csv_files.header_of(path, config)
        except DataError as error:
            errors += [error] if path in tables else []
            continue
        reason = f"{path.relative_to(root)} has the columns {columns.image} and {', '.join(columns.captions)}"
        separator_note = "" if separator == "," else f", separated by {separator!r}"
        yield Layout(
            reason + separator_note,
            replace(config, reader="csv", name="" if len(tables_by_name) == 1 and path in tables else name),
        )
    if errors:
        raise errors[0]


_TEXTS = 20  # more text files than this in a folder are not tables


def _find_txt(root: Path, config: DataConfig) -> Iterator[Layout]:
    image_count = captioned_count = 0
    for _, stems, texts in txt_files.walk(root):
        image_count += len(stems)
        captioned_count += len(texts & set(stems))
        if image_count > _MOST:
            break
    if captioned_count:
        yield Layout(
            f"{captioned_count} of {image_count} images have a .txt of the same name", replace(config, reader="txt")
        )
    elif image_count:
        raise DataError(
            f"{root} holds images, but no captions that raydd finds: neither a table nor a .txt with the name of an "
            "image. See docs/data.md for the layouts."
        )


_FINDERS: Sequence[Callable[[Path, DataConfig], Iterator[Layout]]] = (
    *(_find_karpathy, _find_coco, _find_flat_json, _find_arrow, _find_webdataset, _find_parquet, _find_csv, _find_txt),
)
