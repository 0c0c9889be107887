"""Image-caption pairs in three splits, which every later stage reads."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydd.config import DataConfig
from raydd.data.checking import Check, check_images, check_on_threads, content_fingerprint, in_utf8, refuse, summarise
from raydd.data.image_paths import ImagePaths, find_images
from raydd.data.images import FileImage, ImageSource
from raydd.data.judging import DigestedEntries, held_out_twice, judge_images, judge_texts, without_held_out
from raydd.data.listing import SPLITS, Entry, Listing, Problem, Split
from raydd.data.pairs_record import Listed, OpenedSplit, open_pairs, require_known_sources, write_pairs
from raydd.data.readers import find_reader, require_columns
from raydd.data.splits import cut
from raydd.errors import DataError
from raydd.progress import Progress, silent
from raydd.store import Store


@dataclass(frozen=True)
class Pairs:
    """One split: n images and their C captions, C >= n. Rows of a stored data set are decoded when they are read."""

    images: Sequence[ImageSource]
    ids: Sequence[str]
    """Name of each image in the data set; of length n, unique over all splits."""
    captions: Sequence[str]
    """All captions; those of an image are adjacent."""
    image_of_caption: NDArray[np.int64]
    """Index of each caption's image, ascending: shape (C,)."""

    def __len__(self) -> int:
        """The number of images n."""
        return len(self.images)

    @classmethod
    def of(cls, split: OpenedSplit) -> "Pairs":
        """Create the pairs from one split of the pairs record."""
        return cls(split.images, split.ids, split.captions, split.image_of_caption)


@dataclass(frozen=True)
class DataSet:
    """A data set in which every image was opened once and every caption has text."""

    name: str
    train: Pairs
    val: Pairs
    test: Pairs
    problems: Sequence[Problem]
    """Every fault that was found, and whether its image or caption was left out."""
    notes: tuple[str, ...]
    """What raydd decided about the splits, in plain words."""
    fingerprint: str
    """Hash of splits, ids, image bytes and captions; it does not depend on where the data set is stored."""
    listing: str = ""
    """Name of the pairs record that holds this data set, for `open_data`. The same content gets another name if
    it has other paths below `data.root` or other faults."""

    def summary(self) -> tuple[str, ...]:
        """Describe the data set in a few lines: its size, the notes, and a line for each kind of fault."""
        sizes = ", ".join(f"{len(pairs)} {split}" for split, pairs in zip(SPLITS, self.splits, strict=True))
        captions = sum(len(pairs.captions) for pairs in self.splits)
        shared_caption_notes = _describe_shared_captions({"val": self.val, "test": self.test})
        return (
            f"{self.name}: {sizes} images, {captions} captions",
            *self.notes,
            *shared_caption_notes,
            *summarise(self.problems),
        )

    @property
    def splits(self) -> tuple[Pairs, Pairs, Pairs]:
        """Train, val and test."""
        return self.train, self.val, self.test


def _describe_shared_captions(splits: Mapping[str, Pairs]) -> tuple[str, ...]:
    """Return a line for each split in which images share a caption, word for word.

    Retrieval counts such a caption as correct only for its own image, as published scores do.
    """
    lines = []
    for split, pairs in splits.items():
        images_of_caption: dict[str, set[int]] = {}
        for caption, image in zip(pairs.captions, pairs.image_of_caption.tolist(), strict=True):
            images_of_caption.setdefault(caption, set()).add(image)
        shared = {caption for caption, images in images_of_caption.items() if len(images) > 1}
        count = sum(caption in shared for caption in pairs.captions)
        if count:
            lines.append(
                f"same captions: {count} of {len(pairs.captions)} in {split} are those of another image word for word; "
                "retrieval counts each as correct only for its own image, so no student can reach 100"
            )
    return tuple(lines)


def load_data(
    config: DataConfig, store: Store, progress: Progress = silent, *, check: Check = check_on_threads
) -> DataSet:
    """List a data set with its reader, check all of it, cut missing splits, and keep the result in the store.

    The first load on a machine reads and decodes every image. Later loads read only images whose files have changed.

    Args:
        config: which data set, and what to do with its faults.
        store: where the pairs record goes.
        progress: called with the number of checked images.
        check: checks a batch of images that were not read before, see `raydd.data.checking.judge`; the default uses
            the cores of this machine.

    Returns:
        The data set, opened from the store by `open_data`.

    Raises:
        DataError: the data set does not exist, does not have the layout that the reader expects, has faults that the
            settings refuse, or has no image left in a split that it brings.
    """
    require_columns(config)
    listing = find_reader(config.reader)(config)
    require_known_sources(listing.entries, config.reader)
    entries, problems = judge_texts(listing, config)
    if config.bad_pairs == "refuse":
        refuse(problems, "data.bad_pairs")  # before the images are checked, which takes longer
    data_set = "\n".join((config.reader, str(ImagePaths.of(config).folders), config.name))
    checked = check_images([entry.image for entry in entries], data_set, store, progress, check)
    judged = judge_images(entries, checked.digests, checked.faults, config)
    if config.bad_pairs == "refuse":
        refuse(judged.bad, "data.bad_pairs")
    if config.grey_images == "refuse":
        refuse(judged.grey, "data.grey_images")
    problems += [*judged.bad, *judged.grey]
    _require_splits(judged.usable.entries, listing, config, problems)
    usable, shared_problems, notes = _complete_splits(judged.usable, config)
    problems += shared_problems
    _require_splits(usable.entries, listing, config, problems)
    by_split: dict[Split, list[Entry]] = {
        split: [entry for entry in usable.entries if entry.split == split] for split in SPLITS
    }
    content = content_fingerprint(usable.entries, usable.digests)
    listed = Listed(in_utf8(listing.name), by_split, problems, listing.notes + notes, content)
    return open_data(write_pairs(store, listed, ImagePaths.of(config)), config, store)


def open_data(listing: str, config: DataConfig, store: Store) -> DataSet:
    """Open a data set that `load_data` listed, on this machine or another, without calling its reader.

    Texts and image locations stay on the disk until they are read, so opening takes the same time and memory at any
    size.

    Args:
        listing: the `listing` of the data set that `load_data` returned.
        config: its `root` and `images` say where the images are on this machine.
        store: the store that `load_data` wrote to.

    Raises:
        RecordError: the store has no such listing.
    """
    opened = open_pairs(store, listing, ImagePaths.of(config))
    by_split = {split: Pairs.of(opened.splits[split]) for split in SPLITS}
    return DataSet(
        opened.name,
        **by_split,
        problems=opened.problems,
        notes=opened.notes,
        fingerprint=opened.content,
        listing=listing,
    )


def _require_splits(
    entries: Sequence[Entry], listing: Listing, config: DataConfig, problems: Sequence[Problem]
) -> None:
    """Raise an error if no training image is left, or no image of another split that the data set brings.

    A new test split, cut from train, would not be the split on which others report scores.
    """
    listed_counts = Counter(entry.split for entry in listing.entries)
    remaining_splits = {entry.split for entry in entries}
    reason = "; ".join(summarise(problems)) or "the reader found none"
    if "train" not in remaining_splits:
        raise DataError(
            f"No training image is left of {config.root or config.reader}: {reason}. {_suggest_folder(listing, config)}"
        )
    for split in ("test", "val"):
        if split in listed_counts and split not in remaining_splits:
            raise DataError(
                f"None of the {listed_counts[split]} {split} images that {listing.name} brings can be used: {reason}. "
                f"Correct them, or take the {split} split out of the data set to have one cut from train."
            )


def _suggest_folder(listing: Listing, config: DataConfig) -> str:
    """Say what to do if no image was found; name the folder below `data.root` that has the images, if there is one."""
    names = [entry.image.name for entry in listing.entries[:20] if isinstance(entry.image, FileImage)]
    folder = find_images(Path(config.root), names) if config.root and names else ""
    if not folder or (Path(config.root) / config.images).resolve() == (Path(config.root) / folder).resolve():
        return "Check data.root and data.images."
    return f"{names[0]} is in {folder}: set data.images to {folder}, or check data.root."


def _complete_splits(
    usable: DigestedEntries, config: DataConfig
) -> tuple[DigestedEntries, list[Problem], tuple[str, ...]]:
    """Cut the splits that are missing, and leave the images of val and test out of train.

    Returns:
        The remaining entries, a problem for each image that splits share, and notes on the splits that were cut.
    """
    notes = []
    missing: list[Split] = [split for split in ("test", "val") if all(entry.split != split for entry in usable.entries)]
    usable, problems = without_held_out(usable, config)  # before a cut, so that no image of test gets into val
    for split in missing:
        if all(entry.split != "train" for entry in usable.entries):  # all are held out: refused with the reason
            break
        usable = DigestedEntries(cut(usable.entries, split, config.val_share, config.seed), usable.digests)
        count = Counter(entry.split for entry in usable.entries)[split]
        notes.append(
            f"{split}: {count} images cut from train by seed {config.seed}, since the data set has no {split} split"
        )
        usable, cut_problems = without_held_out(usable, config)
        problems += cut_problems
    last_of_image = {problem.which: problem for problem in (*problems, *held_out_twice(usable))}
    return usable, list(last_of_image.values()), tuple(notes)
