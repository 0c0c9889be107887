"""Every fault of a data set found before the first feature is computed: captions and ids at once, images by decoding.

An image is read and decoded once a machine (see `raydd.data.known_images`); its SHA-256 is taken on the way, so that a
data set is named by its content.
"""

import hashlib
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raydd.data.images import ImageError, ImageSource, decode_image, is_grey, read_image
from raydd.data.known_images import DIGEST_BYTES, Fault, Known, KnownImages, stamps_of
from raydd.data.listing import Entry, Problem
from raydd.errors import DataError
from raydd.progress import Progress
from raydd.store import Store

SHARD = 4096  # images whose verdicts are written together: what a killed check has to do again
NAMED = 3  # faults of a kind that a summary names

GREY = "grey image"

_UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Zs")  # Unicode's categories of controls, formats and spaces

# Of two entries with one id the held-out one stays: an image of test must not be trained on.
_KEEP_FIRST = ("test", "val", "train")

Judged = tuple[str, Fault | None]
"""The digest of an image's bytes, "" if they cannot be read, and its fault, None if it has none."""

Check = Callable[[Sequence[ImageSource]], Iterable[Judged]]
"""Judges a batch of at most `SHARD` images, in its order."""


@dataclass(frozen=True)
class Checked:
    """What checking found, by the image's place."""

    digests: NDArray[np.int64]
    """Of each image's bytes, zeros where they cannot be read: shape (n, 2)."""
    faults: dict[int, Fault]


def judge(image: ImageSource) -> Judged:
    """Read and decode one image."""
    digest = ""
    try:
        content = read_image(image)
        digest = hashlib.sha256(content).hexdigest()[: 2 * DIGEST_BYTES]
        decoded = decode_image(content, image.name)
    except ImageError as fault:
        return digest, (fault.kind, fault.detail)
    size = f"{decoded.width} x {decoded.height} pixels"
    return digest, (GREY, f"{size} without colour") if is_grey(decoded) else None


def check_on_threads(images: Sequence[ImageSource]) -> Iterator[Judged]:
    """Judge images on all cores of this machine, one image in memory a core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow's decoders and the hash let other threads run
        yield from pool.map(judge, images)


def content_fingerprint(entries: Sequence[Entry], digests: NDArray[np.int64]) -> str:
    """The hash of splits, ids, images' bytes and captions, in order: 16 hexadecimal digits; no path is in it."""
    content = hashlib.sha256()
    for entry, digest in zip(entries, digests, strict=True):
        content.update(json.dumps([entry.split, entry.id, digest.tobytes().hex(), entry.captions]).encode() + b"\n")
    return content.hexdigest()[:16]


def check_texts(entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], tuple[Problem, ...]]:
    """Leave out empty captions, images without any caption, and all but one of the entries that share an id."""
    problems = []
    owners: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: _KEEP_FIRST.index(entry.split)):
        owner = owners.setdefault(entry.id, entry)
        if owner is not entry:
            detail = f"listed in {entry.split}, but in {owner.split} already"
            problems.append(Problem("duplicate id", entry.id, detail))
    good = []
    for entry in entries:
        if owners[entry.id] is not entry:
            continue
        captions = tuple(filter(_is_seen, entry.captions))
        if not captions:
            problems.append(Problem("empty caption", entry.id, "the image has no caption"))
            continue
        if len(captions) < len(entry.captions):
            missing = len(entry.captions) - len(captions)
            problems.append(Problem("empty caption", entry.id, f"{missing} of {len(entry.captions)} captions"))
            entry = replace(entry, captions=captions)
        good.append(entry)
    return tuple(good), tuple(problems)


def _is_seen(caption: str) -> bool:
    """Whether a caption has a character to be seen: spaces of no width (Unicode's Cf) are none."""
    stripped = caption.strip()
    if stripped.isascii():
        return bool(stripped)
    return any(unicodedata.category(character) not in _UNSEEN for character in stripped)


def check_images(
    images: Sequence[ImageSource], data_set: str, store: Store, progress: Progress, check: Check = check_on_threads
) -> Checked:
    """The digest of every image, and the fault of each that has one, grey ones included.

    Only images that this machine has not read yet, or whose stamp changed since, are read.

    Args:
        images: n of them.
        data_set: what tells the data set from others on this machine.
        store: whose machine-local part keeps what was found.
        progress: told of `checking images`, if any has to be read.
        check: what judges a batch; Ray workers may.
    """
    stamps = stamps_of(images)  # before the images are read: one that changes meanwhile is read again next time
    kept = KnownImages(store, data_set)
    digests, faults, fresh = np.zeros((len(images), 2), np.int64), {}, np.ones(len(images), bool)
    for known in kept.known:
        places = known.places_of(stamps)
        found = np.flatnonzero((places >= 0) & fresh)
        digests[found], fresh[found] = known.digests[places[found]], False
        for place in found[known.faults[places[found]] > 0].tolist():
            faults[place] = known.fault(int(places[place]))
    missing = np.flatnonzero(fresh)
    done = len(images) - len(missing)
    for start in range(0, len(missing), SHARD):
        batch = missing[start : start + SHARD].tolist()
        for place, (digest, fault) in zip(batch, check([images[place] for place in batch]), strict=True):
            if digest:
                digests[place] = np.frombuffer(bytes.fromhex(digest), np.int64)
            if fault:
                faults[place] = fault
            done += 1
            progress("checking images", done, len(images))
        kept.add(_known(stamps, digests, faults, np.array(batch)))
    if kept.parts:
        kept.keep(_known(stamps, digests, faults, np.arange(len(images))))
    else:
        kept.touch()
    return Checked(digests, faults)


def image_digests(images: Sequence[ImageSource], data_set: str, store: Store, progress: Progress) -> list[str]:
    """The digest of every image's bytes in hexadecimal, "0…0" where they cannot be read; read once a machine."""
    return [row.tobytes().hex() for row in check_images(images, data_set, store, progress).digests]


def summarise(problems: Iterable[Problem]) -> tuple[str, ...]:
    """A line for each kind of fault: how many, what became of them, and the first of them by name."""
    kinds: dict[tuple[str, bool], _Named] = defaultdict(_Named)
    for problem in problems:
        kinds[problem.kind, problem.left_out].add(problem)
    return tuple(
        f"{kind}: {found.count} {'left out' if left_out else 'kept'}: {found}"
        for (kind, left_out), found in kinds.items()
    )


def refuse(problems: Iterable[Problem], setting: str) -> None:
    """Stop if there is any problem.

    Raises:
        DataError: there is; it counts and names them, and says which setting leaves them out.
    """
    kinds: dict[str, _Named] = defaultdict(_Named)
    for problem in problems:
        kinds[problem.kind].add(problem)
    if kinds:
        lines = "\n".join(f"  {kind}: {found.count}: {found}" for kind, found in kinds.items())
        raise DataError(f"The data set has faults.\n{lines}\nPut them right, or set {setting} to skip.")


@dataclass
class _Named:
    """How many problems of a kind there are, and the first of them."""

    count: int = 0
    first: tuple[Problem, ...] = ()

    def add(self, problem: Problem) -> None:
        self.count += 1
        if len(self.first) < NAMED:
            self.first += (problem,)

    def __str__(self) -> str:
        names = ", ".join(problem.which for problem in self.first)
        more = f" and {self.count - NAMED} more" if self.count > NAMED else ""
        return f"{names}{more} ({self.first[0].detail})"


def _known(
    stamps: NDArray[np.int64], digests: NDArray[np.int64], faults: dict[int, Fault], places: NDArray[np.int64]
) -> Known:
    """What was found of some images; those that could not be read are to be tried again."""
    places = places[stamps[places].any(axis=1) & digests[places].any(axis=1)]
    some = {number: faults[place] for number, place in enumerate(places.tolist()) if place in faults}
    return Known.of(stamps[places], digests[places], some)
