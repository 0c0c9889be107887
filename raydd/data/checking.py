"""Every fault of a data set found before the first feature is computed: captions and ids at once, images by decoding.

Images are decoded once. The verdicts are a record of the store, named by the listing's content, so that a second load
opens no image.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from raydd.data.images import ImageError, ImageSource, is_grey, open_image
from raydd.data.listing import Entry, Problem
from raydd.errors import DataError
from raydd.progress import Progress
from raydd.store import Record, Store

VERSION = 1  # of the verdicts; a change of what counts as a fault raises it
SHARD = 4096  # images whose verdicts are written together: what a killed check has to do again
NAMED = 3  # faults of a kind that a summary names

GREY = "grey image"

# Of two entries with one id the held-out one stays: an image of test must not be trained on.
_KEEP_FIRST = ("test", "val", "train")


def content_fingerprint(entries: Iterable[Entry]) -> str:
    """The hash of ids, splits, captions and image sizes, in order: 16 hexadecimal digits; no path is in it."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(json.dumps([entry.split, entry.id, entry.image.size(), entry.captions]).encode() + b"\n")
    return digest.hexdigest()[:16]


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
        captions = tuple(caption for caption in entry.captions if caption.strip())
        if not captions:
            problems.append(Problem("empty caption", entry.id, "the image has no caption"))
            continue
        if len(captions) < len(entry.captions):
            missing = len(entry.captions) - len(captions)
            problems.append(Problem("empty caption", entry.id, f"{missing} of {len(entry.captions)} captions"))
            entry = replace(entry, captions=captions)
        good.append(entry)
    return tuple(good), tuple(problems)


def check_images(entries: Sequence[Entry], store: Store, progress: Progress) -> dict[str, Problem]:
    """The fault of every image that has one, grey ones included, by id. Decodes the images unless the store knows.

    Args:
        entries: with ids that are unique.
        store: where the verdicts are kept.
        progress: told of `checking images`.
    """
    settings = {"listing": content_fingerprint(entries)}
    record = Record.of(store, "pairs", settings, {}, version=VERSION)
    verdicts: dict[int, tuple[str, str]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow's decoders let other threads run
        for start in range(0, len(entries), SHARD):
            name = f"verdicts-{start // SHARD:05}.json"
            if record.complete or record.has(name):
                found = record.read_json(name)
            else:
                found = _judge_all(pool, entries[start : start + SHARD], start, len(entries), progress)
                record.write_json(name, found)
            verdicts |= {start + place: (kind, detail) for place, kind, detail in found}
    if not record.complete:
        record.finish(facts={"images": len(entries), "faults": len(verdicts)})
    return {entries[i].id: Problem(kind, entries[i].id, detail) for i, (kind, detail) in verdicts.items()}


def summarise(problems: Iterable[Problem]) -> tuple[str, ...]:
    """A line for each kind of fault: how many, what became of them, and the first of them by name."""
    kinds: dict[tuple[str, bool], list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind, problem.left_out].append(problem)
    return tuple(
        f"{kind}: {len(found)} {'left out' if left_out else 'kept'}: {_names(found)}"
        for (kind, left_out), found in kinds.items()
    )


def refuse(problems: Sequence[Problem], setting: str) -> None:
    """Stop if there is any problem.

    Raises:
        DataError: there is; it counts and names them, and says which setting leaves them out.
    """
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    if kinds:
        lines = "\n".join(f"  {kind}: {len(found)}: {_names(found)}" for kind, found in kinds.items())
        raise DataError(f"The data set has faults.\n{lines}\nPut them right, or set {setting} to skip.")


def _judge_all(
    pool: ThreadPoolExecutor, entries: Sequence[Entry], start: int, total: int, progress: Progress
) -> list[tuple[int, str, str]]:
    found = []
    for place, verdict in enumerate(pool.map(_judge, (entry.image for entry in entries))):
        if verdict:
            found.append((place, *verdict))
        progress("checking images", start + place + 1, total)
    return found


def _judge(source: ImageSource) -> tuple[str, str] | None:
    try:
        image = open_image(source)
    except ImageError as fault:
        return fault.kind, fault.detail
    return (GREY, f"{image.width} x {image.height} pixels without colour") if is_grey(image) else None


def _names(problems: Sequence[Problem]) -> str:
    names = ", ".join(problem.which for problem in problems[:NAMED])
    more = f" and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    return f"{names}{more} ({problems[0].detail})"
