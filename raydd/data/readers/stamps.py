"""The bundled data set: Tux Paint's stamps, in the package as one Parquet file (stamps/NOTICE.md says where from)."""

from dataclasses import replace
from pathlib import Path

from raydd.config import DataConfig
from raydd.data.listing import Listing
from raydd.data.readers import parquet_files

FOLDER = Path(__file__).parents[1] / "stamps"


def read(config: DataConfig) -> Listing:
    """The stamps, whatever `data.root` says."""
    own = replace(config, root=str(FOLDER), images="", name="stamps", image_column="", caption_column="")
    listing = parquet_files.read(own)
    return replace(listing, notes=())
