"""Reads the bundled data set: Tux Paint's stamps, one Parquet file in the package (source: stamps/NOTICE.md)."""

from dataclasses import replace
from pathlib import Path

from raydd.config import DataConfig
from raydd.data.listing import Listing
from raydd.data.readers import parquet_files

FOLDER = Path(__file__).parents[1] / "stamps"


def read(config: DataConfig) -> Listing:
    """List the stamps, regardless of `data.root`."""
    stamps_config = replace(config, root=str(FOLDER), images="", name="stamps", image_column="", caption_column="")
    listing = parquet_files.read(stamps_config)
    return replace(listing, notes=())
