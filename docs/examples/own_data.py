"""A data set of your own: pictures with a caption file next to each picture, such as dog.png and dog.txt."""

from pathlib import Path

from raydd.config import DataConfig
from raydd.data.images import FileImage
from raydd.data.listing import Entry, Listing


def read(config: DataConfig) -> Listing:
    """List images and captions. raydd opens and checks them, and splits off val and test."""
    entries = []
    for picture in sorted(Path(config.root).glob("*.png")):
        caption = picture.with_suffix(".txt").read_text().strip()
        entries.append(Entry("train", picture.name, FileImage(picture.name, str(picture)), (caption,)))
    return Listing("mine", tuple(entries))
