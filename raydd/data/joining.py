"""Makes one entry of the rows that list the same image, as data sets with one row for each caption do.

Rows that name the same file are joined at once. Rows that hold the image's bytes are joined when all images have been
read, by their digests. In the end each image has an id of its own.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from raydd.data.listing import SPLITS, Entry, Problem, Split

# If two splits list an image, the held-out split keeps it, so that no test image is used for training.
_KEEP_FIRST = ("test", "val", "train")

_Image = tuple[Split, str, bytes]
"""What makes two rows the same image: their split, their id if they have one of their own, and their digest."""


def join_files(entries: Iterable[Entry]) -> list[Entry]:
    """Join entries of one split with the same id and the same file into one entry with all captions."""
    return _join((entry, (entry.split, entry.id, entry.image)) for entry in entries)


def join_images(
    entries: Sequence[Entry], digests: NDArray[np.int64]
) -> tuple[list[Entry], NDArray[np.int64], list[Problem]]:
    """Join entries of one split with the same image, byte for byte, and give each image an id of its own.

    Entries with different ids that the data set itself gave are different images, even if they have the same bytes. An
    image that two splits list under one id is left out of the less held-out one. Of the images of one id in a split,
    only the first stays. Images of one id in different splits all stay if their bytes differ, as where each split
    counts its images from 0; the later split is put before the id then, as in `test/0`.

    Args:
        entries: the usable entries of all splits.
        digests: digest of each image's bytes, zeros if it was not read: shape (n, 2).

    Returns:
        The remaining entries, their digests, and a problem for each image that was left out or got another id.
    """

    def image_of(entry: Entry, digest: NDArray[np.int64]) -> _Image:
        own_id = entry.id if entry.named or not digest.any() else ""
        return entry.split, own_id, digest.tobytes()

    images = [image_of(*row) for row in zip(entries, digests, strict=True)]
    joined = dict(zip(dict.fromkeys(images), _join(zip(entries, images, strict=True)), strict=True))
    counts = Counter(entry.id for entry in joined.values())
    of_one_id = {image: entry for image, entry in joined.items() if counts[entry.id] > 1}
    problems = _left_out(of_one_id)
    kept = {image: entry for image, entry in joined.items() if image not in problems}
    renamed = _renamed({image: entry for image, entry in of_one_id.items() if image in kept}, set(counts))
    for image, (entry, owner) in renamed.items():
        detail = f"{owner.split} has another image with the id {owner.id}"
        kept[image], problems[image] = entry, Problem("duplicate id", entry.id, detail, left_out=False)
    remaining_digests = np.frombuffer(bytearray().join(digest for *_, digest in kept), np.int64).reshape(-1, 2)
    return list(kept.values()), remaining_digests, [problems[image] for image in of_one_id if image in problems]


def _left_out(images: Mapping[_Image, Entry]) -> dict[_Image, Problem]:
    """Return a problem for each image that another split has too, or whose split has another image of its id."""
    of_split: dict[tuple[Split, str], Entry] = {}
    of_bytes: dict[tuple[str, bytes], Entry] = {}
    problems = {}
    for image in sorted(images, key=lambda image: _KEEP_FIRST.index(image[0])):
        entry, digest = images[image], image[-1]
        owner = of_split.get((entry.split, entry.id)) or of_bytes.get((entry.id, digest))
        if owner:
            problems[image] = Problem("duplicate id", entry.id, _why_left_out(entry, owner))
        else:
            of_split[entry.split, entry.id] = of_bytes[entry.id, digest] = entry
    return problems


def _renamed(images: Mapping[_Image, Entry], taken_ids: set[str]) -> dict[_Image, tuple[Entry, Entry]]:
    """Put the split before the id of each image whose id an earlier split has: the image, and the one with its id.

    Args:
        images: at most one image of each split and id.
        taken_ids: all ids of the data set. The new ids are added.
    """
    owners: dict[str, Entry] = {}
    for entry in sorted(images.values(), key=lambda entry: SPLITS.index(entry.split)):
        owners.setdefault(entry.id, entry)
    renamed = {}
    for image, entry in images.items():
        if owners[entry.id] is not entry:
            new_id = f"{entry.split}/{entry.id}"
            while new_id in taken_ids:
                new_id = f"{entry.split}/{new_id}"
            taken_ids.add(new_id)
            renamed[image] = replace(entry, id=new_id), owners[entry.id]
    return renamed


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
