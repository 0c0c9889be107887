"""What a reader gives: every image with its captions, as the data set lists them, before any image is opened."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from raydd.data.images import ImageSource

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a data set."""

    kind: str
    """Missing, unreadable, truncated, oversized or grey image; image path outside; empty caption; duplicate id; ..."""
    which: str
    """The image or caption, as the data set calls it."""
    detail: str
    """What is wrong with it."""
    left_out: bool = True
    """Whether it was left out; a grey image may be kept."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image and its captions."""

    split: Split
    id: str
    """Its name in the data set, the same wherever the data set lies."""
    image: ImageSource
    captions: tuple[str, ...]
    group: str = ""
    """Images of one group stay on one side of a cut; empty is a group of its own."""

    def moved(self, split: Split) -> Self:
        """The same entry in another split."""
        return replace(self, split=split)


@dataclass(frozen=True)
class Listing:
    """A data set as a reader found it."""

    name: str
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...] = ()
    """What the reader had to leave out."""
    notes: tuple[str, ...] = ()
    """What a user of the data should know, in plain words."""
