"""Takes a quick look at a data set, in seconds: counts images and captions of each split, and finds faults.

The survey checks all captions and ids, checks that all files exist, and opens some images. `raydd doctor` opens all.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raydd.config import DataConfig
from raydd.data.checking import GREY, check_on_threads, check_texts
from raydd.data.image_paths import confined, find_images
from raydd.data.images import FileImage, ImageError, ImageSource, read_image
from raydd.data.joining import join_images
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
    reader = find_reader(config.reader)
    listing = reader(config)
    if images_folder := _find_other_images_folder(listing, config):
        config = replace(config, images=images_folder)
        listing = reader(config)
    entries, outside_problems = confined(listing.entries, config)
    entries, text_problems = check_texts(entries)
    # Without reading the images: those of one id are taken for one image.
    entries, _, duplicate_problems = join_images(entries, np.zeros((len(entries), 2), np.int64))
    sizes = [_size(entry.image) for entry in entries]
    missing_indices = {index for index, size in enumerate(sizes) if size is None}
    missing_problems = [
        Problem("missing image", entries[index].id, "there is no such file") for index in sorted(missing_indices)
    ]
    present_indices = [index for index in range(len(entries)) if index not in missing_indices]
    opened_indices = present_indices[:: max(1, -(-len(present_indices) // OPENED))]
    results = check_on_threads([entries[index].image for index in opened_indices])
    faults = {
        index: fault for index, (_, fault) in zip(opened_indices, results, strict=True) if fault and fault[0] != GREY
    }
    fault_problems = [Problem(kind, entries[index].id, detail) for index, (kind, detail) in faults.items()]
    duplicates = _find_duplicates(entries, [index for index in present_indices if index not in faults], sizes)
    unusable = missing_indices | set(faults)
    usable = [entry for index, entry in enumerate(entries) if index not in unusable]
    image_counts = Counter(entry.split for entry in usable)
    caption_counts = Counter[Split]()
    for entry in usable:
        caption_counts[entry.split] += len(entry.captions)
    problems = [
        *listing.problems,
        *outside_problems,
        *text_problems,
        *duplicate_problems,
        *missing_problems,
        *fault_problems,
        *duplicates,
    ]
    return Survey(
        config, {split: (image_counts[split], caption_counts[split]) for split in SPLITS}, problems, len(opened_indices)
    )


def _find_other_images_folder(listing: Listing, config: DataConfig) -> str:
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


def _find_duplicates(entries: Sequence[Entry], indices: Sequence[int], sizes: Sequence[int | None]) -> list[Problem]:
    """Find images that are byte for byte the same as an earlier one. Only images of equal size are compared."""
    indices_of_size: dict[int, list[int]] = defaultdict(list)
    for index in indices:
        indices_of_size[sizes[index] or 0].append(index)
    same_size = [index for group in indices_of_size.values() if len(group) > 1 for index in group][:_HASHED]
    first_index: dict[bytes, int] = {}
    problems = []
    for index in sorted(same_size, key=lambda index: (SPLITS[::-1].index(entries[index].split), index)):
        try:
            digest = hashlib.sha256(read_image(entries[index].image)).digest()
        except ImageError:  # not among the images that were opened
            continue
        first = first_index.setdefault(digest, index)
        if first != index:
            entry, twin = entries[index], entries[first]
            detail = f"{entry.split} has the same image as {twin.id} of {twin.split}"
            left_out = entry.split == "train" != twin.split
            problems.append(Problem("duplicate image", entry.id, detail, left_out))
    return problems
