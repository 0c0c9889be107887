"""Makes one entry of the rows that list the same image, as data sets with one row for each caption do.

Rows that name the same file are joined at once. Rows that hold the image's bytes are joined when all images have been
read, by their digests.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from raydd.data.listing import Entry, Problem

# If two images have the same id, the held-out one is kept, so that no test image is used for training.
_KEEP_FIRST = ("test", "val", "train")


def join_files(entries: Iterable[Entry]) -> list[Entry]:
    """Join entries of one split with the same id and the same file into one entry with all captions."""
    return _join((entry, (entry.split, entry.id, entry.image)) for entry in entries)


def join_images(
    entries: Sequence[Entry], digests: NDArray[np.int64]
) -> tuple[list[Entry], NDArray[np.int64], list[Problem]]:
    """Join entries of one split with the same image, byte for byte, and leave out all but one of the images of an id.

    Entries with different ids that the data set itself gave are different images, even if they have the same bytes.

    Args:
        entries: the usable entries of all splits.
        digests: digest of each image's bytes, zeros if it was not read: shape (n, 2).

    Returns:
        The remaining entries, their digests, and a problem for each image that was left out.
    """

    def image_of(entry: Entry, digest: NDArray[np.int64]) -> Hashable:
        own_id = entry.id if entry.named or not digest.any() else ""
        return entry.split, own_id, digest.tobytes()

    images = [image_of(*row) for row in zip(entries, digests, strict=True)]
    digest_of_image = dict(zip(images, digests, strict=True))
    joined = dict(zip(dict.fromkeys(images), _join(zip(entries, images, strict=True)), strict=True))
    owners: dict[str, Entry] = {}
    for entry in sorted(joined.values(), key=lambda entry: _KEEP_FIRST.index(entry.split)):
        owners.setdefault(entry.id, entry)
    kept = {image: entry for image, entry in joined.items() if owners[entry.id] is entry}
    problems = [
        Problem("duplicate id", entry.id, _why_left_out(entry, owners[entry.id]))
        for image, entry in joined.items()
        if image not in kept
    ]
    remaining_digests = np.array([digest_of_image[image] for image in kept], np.int64).reshape(-1, 2)
    return list(kept.values()), remaining_digests, problems


def _join(keyed_entries: Iterable[tuple[Entry, Hashable]]) -> list[Entry]:
    """Join entries with equal keys into the first of them, with the captions of all."""
    first_entries: dict[Hashable, Entry] = {}
    captions_by_key: dict[Hashable, list[str]] = defaultdict(list)
    for entry, key in keyed_entries:
        first_entries.setdefault(key, entry)
        captions_by_key[key] += entry.captions
    return [replace(entry, captions=tuple(captions_by_key[key])) for key, entry in first_entries.items()]


def _why_left_out(entry: Entry, owner: Entry) -> str:
    if entry.split == owner.split:
        return f"{entry.image.name} is another image than {owner.image.name}"
    return f"listed in {entry.split}, but in {owner.split} already"
