"""Cuts missing splits from the training images, by seed and in whole groups. Finds images that two splits share."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raydd.data.listing import Entry, Split
from raydd.errors import DataError


def cut(entries: Sequence[Entry], new_split: Split, share: float, seed: int) -> tuple[Entry, ...]:
    """Move a share of the training images to another split, in whole groups. The order of entries does not change.

    Groups are ranked by a hash of seed and group name, and taken until the share is reached. So adding or removing an
    image changes the split of only a few others. Groups larger than the whole share come last, the smallest first.

    Args:
        entries: all entries of the data set.
        new_split: the split to create.
        share: share of the training images, 0 to 1; at least one image moves and at least one stays.
        seed: another seed cuts another split.

    Raises:
        DataError: there are fewer than two groups of training images.
    """
    sizes: dict[str, int] = defaultdict(int)
    for entry in entries:
        if entry.split == "train":
            sizes[_group_key(entry)] += 1
    if len(sizes) < 2:
        raise DataError(
            f"There is no {new_split} split, and none can be cut: {sum(sizes.values())} training images are one group. "
            f"Add a {new_split} split or more training images to the data set."
        )
    target_count = max(1, round(share * sum(sizes.values())))

    def rank(group: str) -> tuple[int, bytes]:
        excess = max(0, sizes[group] - target_count)
        return excess, hashlib.sha256(f"{seed}:{group}".encode()).digest()

    ranked = sorted(sizes, key=rank)
    chosen: set[str] = set()
    moved_count = 0
    for group in ranked[:-1]:
        if moved_count >= target_count:
            break
        chosen.add(group)
        moved_count += sizes[group]
    return tuple(
        entry.moved(new_split) if entry.split == "train" and _group_key(entry) in chosen else entry for entry in entries
    )


def shared_images(
    entries: Sequence[Entry], digests: NDArray[np.int64], split: Split, others: Sequence[Split]
) -> dict[int, int]:
    """Find the images of one split that other splits hold too, byte for byte.

    Args:
        entries: all entries of the data set.
        digests: digest of each image's bytes, shape (n, 2).
        split: the split to look through.
        others: the splits to compare with, the most important one first.

    Returns:
        A dictionary from the index of each such entry to the index of the other split's entry with the same image.
    """
    first_index: dict[bytes, int] = {}
    for other in others:
        for index, entry in enumerate(entries):
            if entry.split == other:
                first_index.setdefault(digests[index].tobytes(), index)
    return {
        index: first_index[digest]
        for index, entry in enumerate(entries)
        if entry.split == split and (digest := digests[index].tobytes()) in first_index
    }


def _group_key(entry: Entry) -> str:
    return f"group {entry.group}" if entry.group else f"image {entry.id}"
