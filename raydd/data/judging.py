"""Decides which pairs are used under the settings, for `raydd.data.pairs` and for the first look, `raydd.data.survey`.

Letters: n images.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raydd.config import DataConfig
from raydd.data.checking import GREY, check_texts
from raydd.data.image_paths import confined
from raydd.data.joining import join_images
from raydd.data.known_images import Fault
from raydd.data.listing import Entry, Listing, Problem
from raydd.data.splits import shared_images

_MARKS = re.compile(r"[.!\"()*#:;~]")
_SPACES = re.compile(r"\s+")


def clean_caption(caption: str, max_words: int) -> str:
    """Return a caption in lower case, with spaces for the marks . ! " ( ) * # : ; ~, truncated to `max_words` words.

    Runs of spaces become one space. The published runs truncate to 60 words in training, and to 60 (Flickr30k) or 30
    (COCO) in evaluation.

    >>> clean_caption("Two dogs (one black): running!", 4)
    'two dogs one black'
    """
    words = _SPACES.sub(" ", _MARKS.sub(" ", caption.lower())).strip().split(" ")
    return " ".join(words[:max_words])


@dataclass(frozen=True)
class DigestedEntries:
    """Entries with the digests of their images."""

    entries: Sequence[Entry]
    digests: NDArray[np.int64]
    """Digest of each image's bytes: shape (n, 2)."""

    def without(self, indices: Collection[int]) -> "DigestedEntries":
        """Return the entries whose index is not among the given ones."""
        if not indices:
            return self
        remaining = [index for index in range(len(self.entries)) if index not in indices]
        return DigestedEntries([self.entries[index] for index in remaining], self.digests[remaining])


@dataclass(frozen=True)
class JudgedImages:
    """The images that can be used, and the faults of all."""

    usable: DigestedEntries
    bad: Sequence[Problem]
    """Images that cannot be used, and ids that several images have."""
    grey: Sequence[Problem]


def judge_texts(listing: Listing, config: DataConfig) -> tuple[Sequence[Entry], list[Problem]]:
    """Leave out images outside of the data set's folders and empty captions, after `data.caption_words` cleaned them.

    Returns:
        The remaining entries, and the problems of the listing with those found here.
    """
    entries, outside_problems = confined(listing.entries, config)
    entries, text_problems = check_texts(_clean_captions(entries, config.caption_words))
    return entries, [*listing.problems, *outside_problems, *text_problems]


def judge_images(
    entries: Sequence[Entry], digests: NDArray[np.int64], faults: Mapping[int, Fault], config: DataConfig
) -> JudgedImages:
    """Leave out images with a fault, and grey ones if the settings say so; join the rows of an image.

    Args:
        entries: all entries with captions.
        digests: digest of each image's bytes: shape (n, 2).
        faults: fault of each image that has one, by its index. Being grey is one.
        config: says what to do with grey images.
    """
    skips_grey = config.grey_images == "skip"
    image_problems = [Problem(kind, entries[index].id, detail) for index, (kind, detail) in sorted(faults.items())]
    left_out = {index for index, (kind, _) in faults.items() if kind != GREY or skips_grey}
    usable = DigestedEntries(entries, digests).without(left_out)
    joined_entries, joined_digests, id_problems = join_images(usable.entries, usable.digests)
    grey = [problem for problem in image_problems if problem.kind == GREY]
    if not skips_grey:
        detail_of = {digests[index].tobytes(): detail for index, (kind, detail) in faults.items() if kind == GREY}
        grey = [
            Problem(GREY, entry.id, detail_of[image], left_out=False)
            for entry, digest in zip(joined_entries, joined_digests, strict=True)
            if (image := digest.tobytes()) in detail_of
        ]
    bad = [problem for problem in image_problems if problem.kind != GREY]
    return JudgedImages(DigestedEntries(joined_entries, joined_digests), [*bad, *id_problems], grey)


def without_held_out(usable: DigestedEntries, config: DataConfig) -> tuple[DigestedEntries, list[Problem]]:
    """Leave the images of test and val out of train, unless the settings keep them.

    Returns:
        The remaining entries, and a problem for each training image that test or val has too.
    """
    shared = shared_images(usable.entries, usable.digests, "train", ("test", "val"))
    leaves_out = config.duplicates == "leave-out-of-train"
    problems = [_duplicate(usable, index, other, left_out=leaves_out) for index, other in shared.items()]
    return usable.without(shared) if leaves_out else usable, problems


def held_out_twice(usable: DigestedEntries) -> list[Problem]:
    """Return a problem for each image of val that test has too; val keeps it."""
    shared = shared_images(usable.entries, usable.digests, "val", ("test",))
    return [_duplicate(usable, index, other, left_out=False) for index, other in shared.items()]


def _duplicate(usable: DigestedEntries, index: int, other_index: int, *, left_out: bool) -> Problem:
    entry, twin = usable.entries[index], usable.entries[other_index]
    detail = f"{entry.split} has the same image as {twin.id} of {twin.split}"
    return Problem("duplicate image", entry.id, detail, left_out)


def _clean_captions(entries: Sequence[Entry], max_words: int) -> Sequence[Entry]:
    if not max_words:
        return entries
    return [
        replace(entry, captions=tuple(clean_caption(caption, max_words) for caption in entry.captions))
        for entry in entries
    ]
