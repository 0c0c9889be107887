"""What a reader returns: every image with its captions, as the data set lists them, before any image is opened."""

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
    """Name of the image or caption in the data set."""
    detail: str
    """What is wrong with it."""
    left_out: bool = True
    """Whether the image or caption was left out; a grey image may be kept."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image and its captions."""

    split: Split
    id: str
    """Name of the image in the data set; it does not depend on where the data set is stored."""
    image: ImageSource
    captions: tuple[str, ...]
    group: str = ""
    """Images of one group are never divided between splits; an image with an empty group is a group of its own."""
    named: bool = True
    """Whether the data set gives the image its id; otherwise the id is the row's place."""

    def moved(self, split: Split) -> Self:
        """Return the same entry in another split."""
        return replace(self, split=split)


@dataclass(frozen=True)
class Listing:
    """A data set as a reader found it."""

    name: str
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...] = ()
    """Images and captions that the reader had to leave out."""
    notes: tuple[str, ...] = ()
    """What a user of the data should know, in plain words."""
