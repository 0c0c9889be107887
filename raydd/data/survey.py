"""Takes a quick look at a data set, in seconds: counts images and captions of each split, and finds faults.

The survey checks all captions and ids, checks that all files exist, and opens some images. `raydd doctor` opens all.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raydd.config import DataConfig
from raydd.data.checking import check_on_threads, check_texts
from raydd.data.image_paths import confined, find_images
from raydd.data.images import FileImage, ImageError, ImageSource, read_image
from raydd.data.listing import SPLITS, Entry, Listing, Problem, Split
from raydd.data.readers import find_reader, require_columns
from raydd.data.readers.folders import root_folder
from raydd.data.readers.tar_shards import TarImage

OPENED = 1000  # most images to open, evenly spread over the data set
_HASHED = 10_000  # most images to hash, of those that share their size with others
_NAMES = 20  # image paths by which the folder of the images is searched


@dataclass(frozen=True)
class Survey:
    """Result of a survey."""

    data: DataConfig
    """The settings, with `data.images` if the images were found in another folder."""
    splits: Mapping[Split, tuple[int, int]]
    """Number of usable images and captions, as far as is known."""
    problems: Sequence[Problem]
    opened: int
    """How many images were opened."""


def survey(config: DataConfig) -> Survey:
    """Look at a data set.

    Raises:
        DataError: its reader cannot read it.
    """
    require_columns(config)
    read = find_reader(config.reader)
    listing = read(config)
    if images := _images_elsewhere(listing, config):
        config = replace(config, images=images)
        listing = read(config)
    entries, outside = confined(listing.entries, config)
    entries, texts = check_texts(entries)
    sizes = [_size(entry.image) for entry in entries]
    lost = {place for place, size in enumerate(sizes) if size is None}
    missing = [Problem("missing image", entries[place].id, "there is no such file") for place in sorted(lost)]
    there = [place for place in range(len(entries)) if place not in lost]
    chosen = there[:: max(1, -(-len(there) // OPENED))]
    judged = check_on_threads([entries[place].image for place in chosen])
    faults = {
        place: fault for place, (_, fault) in zip(chosen, judged, strict=True) if fault and fault[0] != "grey image"
    }
    broken = [Problem(kind, entries[place].id, detail) for place, (kind, detail) in faults.items()]
    copies = _copies(entries, [place for place in there if place not in faults], sizes)
    out = lost | set(faults)
    kept = [entry for place, entry in enumerate(entries) if place not in out]
    counts = Counter(entry.split for entry in kept)
    captions = Counter[Split]()
    for entry in kept:
        captions[entry.split] += len(entry.captions)
    problems = [*listing.problems, *outside, *texts, *missing, *broken, *copies]
    return Survey(config, {split: (counts[split], captions[split]) for split in SPLITS}, problems, len(chosen))


def _images_elsewhere(listing: Listing, config: DataConfig) -> str:
    """Return the folder in which the data set's images are; "" if they are where it says, or are not found."""
    images = [entry.image for entry in listing.entries if isinstance(entry.image, FileImage)]
    images = images[:: max(1, len(images) // _NAMES)][:_NAMES]
    if config.images or not config.root or not images or any(image.stamp() for image in images):
        return ""
    return find_images(root_folder(config), [image.name for image in images])


def _size(image: ImageSource) -> int | None:
    """Return the size of an image in bytes: None if its file is missing, 0 if unknown without reading the image."""
    if isinstance(image, TarImage):
        return image.length
    if not isinstance(image, FileImage):
        return 0
    try:
        return os.stat(image.path).st_size  # noqa: PTH116 - a Path costs more than the call
    except (OSError, ValueError):
        return None


def _copies(entries: Sequence[Entry], places: Sequence[int], sizes: Sequence[int | None]) -> list[Problem]:
    """Find images that are byte for byte the same as an earlier one. Only images of equal size are compared."""
    of_size: dict[int, list[int]] = defaultdict(list)
    for place in places:
        of_size[sizes[place] or 0].append(place)
    alike = [place for places in of_size.values() if len(places) > 1 for place in places][:_HASHED]
    owners: dict[bytes, int] = {}
    problems = []
    for place in sorted(alike, key=lambda place: (SPLITS[::-1].index(entries[place].split), place)):
        try:
            digest = hashlib.sha256(read_image(entries[place].image)).digest()
        except ImageError:  # not among the images that were opened
            continue
        owner = owners.setdefault(digest, place)
        if owner != place:
            entry, twin = entries[place], entries[owner]
            detail = f"{entry.split} has the same image as {twin.id} of {twin.split}"
            left_out = entry.split == "train" != twin.split
            problems.append(Problem("duplicate image", entry.id, detail, left_out))
    return problems
