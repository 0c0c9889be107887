"""Checks a data set before any feature is computed: captions first, then images by decoding them.

Each machine reads and decodes an image only once (see `raydd.data.known_images`). The SHA-256 of the image's bytes is
computed in the same pass, so that a data set is identified by its content.
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

SHARD = 4096  # images whose results are written together; a killed check repeats at most this many
NAMED = 3  # problems of each kind that a summary names

GREY = "grey image"

_INVISIBLE = ("Cc", "Cf", "Zl", "Zp", "Zs")  # Unicode categories of control characters, format characters and spaces

Judged = tuple[str, Fault | None]
"""Digest of an image's bytes ("" if they cannot be read), and the image's fault (None if it has none)."""

Check = Callable[[Sequence[ImageSource]], Iterable[Judged]]
"""Checks a batch of at most `SHARD` images; the results are in the order of the images."""


@dataclass(frozen=True)
class Checked:
    """Result of checking the images of a data set."""

    digests: NDArray[np.int64]
    """Digest of each image's bytes, zeros if they cannot be read: shape (n, 2)."""
    faults: dict[int, Fault]
    """Fault of each image that has one, by the image's index."""


def digest_of(content: bytes) -> str:
    """Return the first `DIGEST_BYTES` bytes of a SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()[: 2 * DIGEST_BYTES]


def judge(image: ImageSource) -> Judged:
    """Read and decode one image, and return its digest and its fault."""
    digest = ""
    try:
        content = read_image(image)
        digest = digest_of(content)
        decoded = decode_image(content, image.name)
    except ImageError as error:
        return digest, (error.kind, error.detail)
    size = f"{decoded.width} x {decoded.height} pixels"
    return digest, (GREY, f"{size} without colour") if is_grey(decoded) else None


def check_on_threads(images: Sequence[ImageSource]) -> Iterator[Judged]:
    """Check images on all cores of this machine, with one image per core in memory."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow's decoders and hashlib release the GIL
        yield from pool.map(judge, images)


def content_fingerprint(entries: Sequence[Entry], digests: NDArray[np.int64]) -> str:
    """Return a hash of all splits, ids, image digests and captions in order: 16 hexadecimal digits. It has no path."""
    sha256 = hashlib.sha256()
    for entry, digest in zip(entries, digests, strict=True):
        sha256.update(json.dumps([entry.split, entry.id, digest.tobytes().hex(), entry.captions]).encode() + b"\n")
    return sha256.hexdigest()[:16]


def check_texts(entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], tuple[Problem, ...]]:
    """Leave out empty captions, and entries without any caption; spell out what UTF-8 lacks in ids and captions."""
    problems = []
    usable = []
    for entry in map(_in_utf8, entries):
        captions = tuple(filter(_is_visible, entry.captions))
        if not captions:
            problems.append(Problem("empty caption", entry.id, "the image has no caption"))
            continue
        if len(captions) < len(entry.captions):
            empty_count = len(entry.captions) - len(captions)
            problems.append(Problem("empty caption", entry.id, f"{empty_count} of {len(entry.captions)} captions"))
            entry = replace(entry, captions=captions)
        usable.append(entry)
    return tuple(usable), tuple(problems)


def in_utf8(text: str) -> str:
    """Return a text with what UTF-8 lacks spelt out: bytes of file names in other encodings, halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def _in_utf8(entry: Entry) -> Entry:
    texts = (entry.id, *entry.captions)
    entry_id, *captions = spelt_out = tuple(map(in_utf8, texts))
    return entry if spelt_out == texts else replace(entry, id=entry_id, captions=tuple(captions))


def _is_visible(caption: str) -> bool:
    """Return whether a caption has a visible character. Zero-width spaces (Unicode category Cf) do not count."""
    stripped = caption.strip()
    if stripped.isascii():
        return bool(stripped)
    return any(unicodedata.category(character) not in _INVISIBLE for character in stripped)


def check_images(
    images: Sequence[ImageSource], data_set: str, store: Store, progress: Progress, check: Check = check_on_threads
) -> Checked:
    """Return the digest of every image, and the fault of each image that has one. A grey image has a fault too.

    Reads only images that this machine has not read before, or whose stamp has changed since.

    Args:
        images: the n images.
        data_set: identifies the data set on this machine.
        store: its machine-local part keeps the results.
        progress: called with `checking images`, if any image has to be read.
        check: checks a batch of images, possibly on Ray workers.
    """
    stamps = stamps_of(images)  # before the images are read: an image that changes meanwhile is read again next time
    cache = KnownImages(store, data_set)
    digests, faults, is_unchecked = np.zeros((len(images), 2), np.int64), {}, np.ones(len(images), bool)
    for known in cache.known:
        positions = known.indices_of(stamps)
        cached = np.flatnonzero((positions >= 0) & is_unchecked)
        digests[cached], is_unchecked[cached] = known.digests[positions[cached]], False
        for index in cached[known.faults[positions[cached]] > 0].tolist():
            faults[index] = known.fault(int(positions[index]))
    unchecked = np.flatnonzero(is_unchecked)
    done = len(images) - len(unchecked)
    for start in range(0, len(unchecked), SHARD):
        batch = unchecked[start : start + SHARD].tolist()
        for index, (digest, fault) in zip(batch, check([images[index] for index in batch]), strict=True):
            if digest:
                digests[index] = np.frombuffer(bytes.fromhex(digest), np.int64)
            if fault:
                faults[index] = fault
            done += 1
            progress("checking images", done, len(images))
        cache.add(_readable_results(stamps, digests, faults, np.array(batch)))
    if cache.parts:
        cache.keep(_readable_results(stamps, digests, faults, np.arange(len(images))))
    else:
        cache.touch()
    return Checked(digests, faults)


def image_digests(images: Sequence[ImageSource], data_set: str, store: Store, progress: Progress) -> list[str]:
    """Return the digest of every image in hexadecimal, "0…0" if unreadable. A machine reads each image only once."""
    return [row.tobytes().hex() for row in check_images(images, data_set, store, progress).digests]


def summarise(problems: Iterable[Problem]) -> tuple[str, ...]:
    """Return a line for each kind of problem: how many, whether they were left out or kept, and the first few names."""
    groups: dict[tuple[str, bool], _ProblemGroup] = defaultdict(_ProblemGroup)
    for problem in problems:
        groups[problem.kind, problem.left_out].add(problem)
    return tuple(
        f"{kind}: {group.count} {'left out' if left_out else 'kept'}: {group}"
        for (kind, left_out), group in groups.items()
    )


def refuse(problems: Iterable[Problem], setting: str) -> None:
    """Raise an error if there is any problem.

    Raises:
        DataError: there are problems. The message counts and names them, and says which setting leaves them out.
    """
    groups: dict[str, _ProblemGroup] = defaultdict(_ProblemGroup)
    for problem in problems:
        groups[problem.kind].add(problem)
    if groups:
        lines = "\n".join(f"  {kind}: {group.count}: {group}" for kind, group in groups.items())
        raise DataError(f"The data set has faults.\n{lines}\nCorrect them, or set {setting} to skip.")


@dataclass
class _ProblemGroup:
    """Number of problems of one kind, and the first few of them."""

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


def _readable_results(
    stamps: NDArray[np.int64], digests: NDArray[np.int64], faults: dict[int, Fault], indices: NDArray[np.int64]
) -> Known:
    """Return the results for some images, without those that could not be read, so that they are tried again."""
    indices = indices[stamps[indices].any(axis=1) & digests[indices].any(axis=1)]
    known_faults = {number: faults[index] for number, index in enumerate(indices.tolist()) if index in faults}
    return Known.of(stamps[indices], digests[indices], known_faults)
