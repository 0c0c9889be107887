"""Takes a quick look at a data set, in seconds: counts images and captions of each split, and finds faults.

The survey checks all captions and ids, checks that all files exist, and opens some images. `raydd doctor` opens all.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raydd.config import DataConfig
from raydd.data.checking import check_on_threads, digest_of
from raydd.data.image_paths import find_images
from raydd.data.images import FileImage, ImageError, ImageSource, read_image
from raydd.data.judging import held_out_twice, judge_images, judge_texts, without_held_out
from raydd.data.known_images import Fault
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
    entries, problems = judge_texts(listing, config)
    digests, faults, opened = _look_at(entries)
    judged = judge_images(entries, digests, faults, config)
    usable, shared_problems = without_held_out(judged.usable, config)
    problems += [*judged.bad, *judged.grey, *shared_problems, *held_out_twice(usable)]
    image_counts, caption_counts = Counter[Split](), Counter[Split]()
    for entry in usable.entries:
        image_counts[entry.split] += 1
        caption_counts[entry.split] += len(entry.captions)
    return Survey(config, {split: (image_counts[split], caption_counts[split]) for split in SPLITS}, problems, opened)


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


def _look_at(entries: Sequence[Entry]) -> tuple[NDArray[np.int64], dict[int, Fault], int]:
    """Check that all files of n images exist, open some images, and read those that may have the same bytes as others.

    Returns:
        For each image a digest, which is equal for equal images as far as is known: shape (n, 2); the fault of each
        image that has one, by its index; and how many images were opened.
    """
    sizes = [_size(entry.image) for entry in entries]
    faults: dict[int, Fault] = {
        index: ("missing image", "there is no such file") for index, size in enumerate(sizes) if size is None
    }
    present = [index for index in range(len(entries)) if index not in faults]
    opened = present[:: max(1, -(-len(present) // OPENED))]
    digests: dict[int, str] = {}
    for index, (digest, fault) in zip(opened, check_on_threads([entries[i].image for i in opened]), strict=True):
        if digest:
            digests[index] = digest
        if fault:
            faults[index] = fault
    for index in _of_one_size(present, sizes):
        if index not in digests and index not in faults:
            try:
                digests[index] = digest_of(read_image(entries[index].image))
            except ImageError as error:
                faults[index] = error.kind, error.detail
    places = [_place(entry, size or 0) for entry, size in zip(entries, sizes, strict=True)]
    digest_at = {places[index]: digest for index, digest in digests.items()}
    content = bytearray()
    for index, place in enumerate(places):
        content += bytes.fromhex(
            digests.get(index) or digest_at.get(place) or digest_of(place.encode("utf-8", "surrogatepass"))
        )
    return np.frombuffer(content, np.int64).reshape(-1, 2), faults, len(opened)


def _of_one_size(indices: Sequence[int], sizes: Sequence[int | None]) -> Sequence[int]:
    """Return which images share their size with another one, at most `_HASHED`. Only these can have the same bytes."""
    indices_of_size: dict[int, list[int]] = defaultdict(list)
    for index in indices:
        indices_of_size[sizes[index] or 0].append(index)
    return [index for group in indices_of_size.values() if len(group) > 1 for index in group][:_HASHED]


def _place(entry: Entry, size: int) -> str:
    """Return what stands for the bytes of an image that is not read: its file; without one, its split, id and size."""
    return entry.image.path if isinstance(entry.image, FileImage) else f"{entry.split} {size} {entry.id}"
