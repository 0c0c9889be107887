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
from raydd.data.listing import Entry, Listing, Problem
from raydd.data.readers.arrow_files import list_arrow
from raydd.data.readers.columns import join
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
    library = _library(config.reader)
    local = expanded(name, "data.reader")
    source = str(local) if local.is_dir() else name
    entries: list[Entry] = []
    problems: list[Problem] = []
    with nullcontext("") if local.is_dir() else offline_if_silent() as why:
        files = _files(library, source, config, why)
    for word, path in files:
        found, faults = list_arrow(path, word, config, path.parent)
        entries += found
        problems += faults
    caches = (library.config.HF_DATASETS_CACHE, library.config.HF_CACHE_HOME)
    folders = [str(local.absolute())] if local.is_dir() else list(map(str, caches))
    kept, outside = confined_to(entries, folders, "the data set's folder" if local.is_dir() else "$HF_HOME")
    entries, faults = join([_relative(entry, folders) for entry in kept])
    return Listing(name.rpartition("/")[2], tuple(entries), (*problems, *outside, *faults))


def _relative(entry: Entry, folders: Sequence[str]) -> Entry:
    """Return an entry whose names do not depend on where its file is on this machine."""
    image = entry.image
    if not isinstance(image, FileImage):
        return entry
    inside = next((folder for folder in folders if Path(image.path).is_relative_to(folder)), "/")
    name = str(Path(image.path).relative_to(inside))
    return replace(entry, image=replace(image, name=name), id=name if entry.id == image.name else entry.id)


def _library(reader: str) -> ModuleType:
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


def _files(library: ModuleType, source: str, config: DataConfig, why: str) -> list[tuple[str, Path]]:
    """Return the Arrow files of the cache, each with the name of its split."""
    try:
        found: Any = library.load_dataset(source, config.name or None)
    except Exception as error:  # can come from the library, the hub's client, or its HTTP client
        why = why or " ".join((str(error) or type(error).__name__).split()).rstrip(".")[:300]
        raise DataError(
            f"data.reader {config.reader} cannot be loaded ({why}). Check the name, and data.name for its "
            "configuration; without a connection, use data.reader arrow for a folder that save_to_disk wrote elsewhere."
        ) from error
    return [(str(word), Path(file["filename"])) for word, part in found.items() for file in part.cache_files]
