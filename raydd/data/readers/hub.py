"""Reads a data set of the Hugging Face hub, `hf:USER/NAME`, or a folder that `datasets` can read, `hf:FOLDER`.

`datasets` downloads the data set once and keeps it as Arrow files in its own cache ($HF_HOME), from which images are
read. `data.name` is the configuration, if there are several. Columns are found as in Parquet. Needs
`pip install 'raydd[hf]'`.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from raydd.config import DataConfig
from raydd.data.encoders.weights import offline_if_silent
from raydd.data.image_paths import confined_to
from raydd.data.images import FileImage
from raydd.data.joining import join_files
from raydd.data.listing import Entry, Listing, Problem
from raydd.data.readers.arrow_files import list_arrow
from raydd.errors import ConfigError, DataError
from raydd.plain_files import expanded

PREFIX = "hf:"


def read(config: DataConfig) -> Listing:
    """List all splits of the data set.

    Raises:
        ConfigError: no data set is named, data.root is set, or the library is missing or too old.
        DataError: the data set cannot be loaded, or lacks an image or a caption column.
    """
    name = config.reader.removeprefix(PREFIX)
    if not name:
        raise ConfigError("data.reader hf: names no data set. Write it after the colon, as in hf:USER/NAME.")
    if config.root or config.images:
        raise ConfigError(
            f"data.root and data.images have no use with data.reader {config.reader}. Leave them empty; $HF_HOME says "
            "where the files are kept."
        )
    library = _import_datasets(config.reader)
    local_folder = expanded(name, "data.reader")
    source = str(local_folder) if local_folder.is_dir() else name
    entries: list[Entry] = []
    problems: list[Problem] = []
    with nullcontext("") if local_folder.is_dir() else offline_if_silent() as offline_reason:
        files = _cached_files(library, source, config, offline_reason)
    for split_name, path in files:
        file_entries, faults = list_arrow(path, split_name, config, path.parent)
        entries += file_entries
        problems += faults
    cache_folders = (library.config.HF_DATASETS_CACHE, library.config.HF_CACHE_HOME)
    folders = [str(local_folder.absolute())] if local_folder.is_dir() else list(map(str, cache_folders))
    inside_entries, outside_problems = confined_to(
        entries, folders, "the data set's folder" if local_folder.is_dir() else "$HF_HOME"
    )
    entries = join_files(_with_relative_name(entry, folders) for entry in inside_entries)
    return Listing(name.rpartition("/")[2], tuple(entries), (*problems, *outside_problems))


def _with_relative_name(entry: Entry, folders: Sequence[str]) -> Entry:
    """Return an entry whose names do not depend on where its file is on this machine."""
    image = entry.image
    if not isinstance(image, FileImage):
        return entry
    base_folder = next((folder for folder in folders if Path(image.path).is_relative_to(folder)), "/")
    name = str(Path(image.path).relative_to(base_folder))
    return replace(entry, image=replace(image, name=name), id=name if entry.id == image.name else entry.id)


def _import_datasets(reader: str) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"data.reader {reader} needs the package datasets ({error}). Run `pip install 'raydd[hf]'`."
        ) from error
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise ConfigError(
            f"data.reader {reader}: datasets {datasets.__version__} runs code of the data sets that it loads. "
            "Run `pip install 'raydd[hf]'`, which brings a version that does not."
        )
    return datasets


def _cached_files(library: ModuleType, source: str, config: DataConfig, reason: str) -> list[tuple[str, Path]]:
    """Return the Arrow files of the cache, each with the name of its split."""
    try:
        splits: Any = library.load_dataset(source, config.name or None)
    except Exception as error:  # can come from the library, the hub's client, or its HTTP client
        reason = reason or " ".join((str(error) or type(error).__name__).split()).rstrip(".")[:300]
        raise DataError(
            f"data.reader {config.reader} cannot be loaded ({reason}). Check the name, and data.name for its "
            "configuration; without a connection, use data.reader arrow for a folder that save_to_disk wrote elsewhere."
        ) from error
    return [
        (str(split_name), Path(file["filename"])) for split_name, split in splits.items() for file in split.cache_files
    ]
