"""Image-caption pairs in three splits: what every later stage reads."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raydd.config import DataConfig
from raydd.data.captions import clean_caption
from raydd.data.checking import GREY, check_images, check_texts, content_fingerprint, refuse, summarise
from raydd.data.images import ImageSource
from raydd.data.listing import SPLITS, Entry, Problem, Split
from raydd.data.readers import find_reader
from raydd.data.splits import cut
from raydd.errors import DataError
from raydd.progress import Progress, silent
from raydd.store import Store


@dataclass(frozen=True)
class Pairs:
    """One split: n images and their C captions, C >= n."""

    images: tuple[ImageSource, ...]
    ids: tuple[str, ...]
    """Name of each image in the data set; of length n, unique over all splits."""
    captions: tuple[str, ...]
    """All captions, those of an image side by side."""
    image_of_caption: NDArray[np.int64]
    """Index of each caption's image, ascending: shape (C,)."""

    def __len__(self) -> int:
        """The number of images n."""
        return len(self.images)

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Pairs":
        """The pairs of a sequence of entries, in its order."""
        counts = [len(entry.captions) for entry in entries]
        return cls(
            images=tuple(entry.image for entry in entries),
            ids=tuple(entry.id for entry in entries),
            captions=tuple(caption for entry in entries for caption in entry.captions),
            image_of_caption=np.repeat(np.arange(len(entries), dtype=np.int64), counts),
        )


@dataclass(frozen=True)
class DataSet:
    """A data set whose every image was opened once and whose every caption has a text."""

    name: str
    train: Pairs
    val: Pairs
    test: Pairs
    problems: tuple[Problem, ...]
    """Every fault that was found, with what became of it."""
    notes: tuple[str, ...]
    """What raydd decided about the splits, in plain words."""
    fingerprint: str
    """Hash of ids, captions, splits and image sizes; the same wherever the data set lies."""

    def summary(self) -> tuple[str, ...]:
        """The data set in a few lines: its size, the notes, and a line for each kind of fault."""
        sizes = ", ".join(f"{len(pairs)} {split}" for split, pairs in zip(SPLITS, self.splits, strict=True))
        captions = sum(len(pairs.captions) for pairs in self.splits)
        return (f"{self.name}: {sizes} images, {captions} captions", *self.notes, *summarise(self.problems))

    @property
    def splits(self) -> tuple[Pairs, Pairs, Pairs]:
        """Train, val and test."""
        return self.train, self.val, self.test


def load_data(config: DataConfig, store: Store, progress: Progress = silent) -> DataSet:
    """Read a data set, check all of it, and cut the splits that it lacks.

    The first load decodes every image; later ones take the verdicts from the store.

    Args:
        config: which data set, and what to do with its faults.
        store: where the verdicts are kept.
        progress: told how many images were checked.

    Raises:
        DataError: the data set is not there, is not laid out as the reader expects, has faults that the settings
            refuse, or has no training image left.
    """
    listing = find_reader(config.reader)(config)
    entries, text_problems = check_texts(_cleaned(listing.entries, config.caption_words))
    problems = [*listing.problems, *text_problems]
    if config.bad_pairs == "refuse":
        refuse(problems, "data.bad_pairs")  # before the images, which take longer
    faults = check_images(entries, store, progress)
    bad = [fault for fault in faults.values() if fault.kind != GREY]
    grey = [fault for fault in faults.values() if fault.kind == GREY]
    if config.bad_pairs == "refuse":
        refuse(bad, "data.bad_pairs")
    if config.grey_images == "refuse":
        refuse(grey, "data.grey_images")
    out = {fault.which for fault in [*bad, *(grey if config.grey_images == "skip" else [])]}
    problems += [Problem(fault.kind, fault.which, fault.detail, fault.which in out) for fault in [*bad, *grey]]
    entries, notes = _complete([entry for entry in entries if entry.id not in out], config, problems)
    by_split = {split: Pairs.of([entry for entry in entries if entry.split == split]) for split in SPLITS}
    return DataSet(
        listing.name,
        **by_split,
        problems=tuple(problems),
        notes=listing.notes + notes,
        fingerprint=content_fingerprint(entries),
    )


def _cleaned(entries: Sequence[Entry], words: int) -> Sequence[Entry]:
    if not words:
        return entries
    return [replace(entry, captions=tuple(clean_caption(c, words) for c in entry.captions)) for entry in entries]


def _complete(
    entries: Sequence[Entry], config: DataConfig, problems: Sequence[Problem]
) -> tuple[Sequence[Entry], tuple[str, ...]]:
    if not any(entry.split == "train" for entry in entries):
        why = "; ".join(summarise(problems)) or "the reader found none"
        raise DataError(
            f"No training image is left of {config.root or config.reader}: {why}. Check data.root and data.images."
        )
    notes = []
    missing: list[Split] = [split for split in ("test", "val") if all(entry.split != split for entry in entries)]
    for split in missing:
        entries = cut(entries, split, config.val_share, config.seed)
        count = Counter(entry.split for entry in entries)[split]
        notes.append(
            f"{split}: {count} images cut from train by seed {config.seed}, since the data set has no {split} split"
        )
    return entries, tuple(notes)
