"""Readers: each lists data sets of one layout. To add one, write a file with `read(config) -> Listing` and add it here.

A reader of your own needs no change here: set `data.reader` to `module:NAME` or `FILE.py:NAME` of such a function.
"""

from collections.abc import Callable
from dataclasses import dataclass

from raydd.config import DataConfig
from raydd.data.listing import SPLITS, Entry, Listing
from raydd.data.readers import (
    arrow_files,
    coco,
    csv_files,
    flat_json,
    hub,
    karpathy,
    parquet_files,
    stamps,
    tar_shards,
    txt_files,
)
from raydd.errors import ConfigError
from raydd.outside import checked, find, guarded

Reader = Callable[[DataConfig], Listing]

READERS: dict[str, Reader] = {
    "stamps": stamps.read,
    "csv": csv_files.read,
    "txt": txt_files.read,
    "flat-json": flat_json.read,
    "karpathy": karpathy.read,
    "coco": coco.read,
    "parquet": parquet_files.read,
    "webdataset": tar_shards.read,
    "arrow": arrow_files.read,
    hub.PREFIX: hub.read,
}
_WITHOUT_COLUMNS = ("stamps", "txt", "karpathy", "coco", "webdataset")


def find_reader(name: str) -> Reader:
    """Return the reader of that name, or a user's own function `module:NAME` or `FILE.py:NAME`, which runs as code.

    Raises:
        ConfigError: there is no such reader, or its file fails.
    """
    if name.startswith(hub.PREFIX):
        return READERS[hub.PREFIX]
    reader = find(name, READERS, "data.reader", None, "a function, as in def read(config): return Listing(...)")
    return reader if name in READERS else _UserReader(reader, name)


def require_columns(config: DataConfig) -> None:
    """Raise an error if column names are set for a reader that has no columns.

    Raises:
        ConfigError: a column name is set. The message names the setting.
    """
    columns = [name for name in ("image_column", "caption_column") if getattr(config, name)]
    if columns and config.reader in _WITHOUT_COLUMNS:
        raise ConfigError(
            f"data.{columns[0]} is {getattr(config, columns[0])!r}, but data.reader {config.reader} has no columns. "
            "Leave it empty."
        )


@dataclass(frozen=True)
class _UserReader:
    """A user's reader."""

    function: Reader
    name: str

    def __call__(self, config: DataConfig) -> Listing:
        """List the data set.

        Raises:
            ConfigError: the function fails, or returns something other than a listing.
        """
        result = guarded(self.function, self.name, "data.reader")(config)
        listing = checked(result, Listing, self.name, "data.reader")
        for number, entry in enumerate(listing.entries):
            if fault := _entry_fault(entry):
                raise ConfigError(f"data.reader {self.name}: entry {number} {fault}. Correct the function.")
        return listing


def _entry_fault(entry: Entry) -> str:
    if not isinstance(entry, Entry):
        return f"is a {type(entry).__name__}, but must be a raydd.data.listing.Entry"
    if entry.split not in SPLITS:
        return f"({entry.id}) has the split {entry.split!r}, but must have one of {', '.join(SPLITS)}"
    if not isinstance(entry.captions, tuple) or not all(isinstance(caption, str) for caption in entry.captions):
        return f"({entry.id}) has the captions {entry.captions!r}, but must have a tuple of texts"
    return ""
