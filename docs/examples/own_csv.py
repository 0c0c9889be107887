"""A data set of your own: captions.csv with the columns image and caption, one row per caption."""

import csv
from pathlib import Path

from raydd.config import DataConfig
from raydd.data.images import FileImage
from raydd.data.listing import Entry, Listing


def read(config: DataConfig) -> Listing:
    """List each image of the CSV file with all its captions; image paths are relative to the file's folder."""
    root = Path(config.root)
    captions: dict[str, list[str]] = {}
    with (root / "captions.csv").open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            captions.setdefault(row["image"], []).append(row["caption"])
    entries = [
        Entry("train", image, FileImage(image, str(root / image)), tuple(texts)) for image, texts in captions.items()
    ]
    return Listing("mine", tuple(entries))
