"""Published scores of the methods that raydd implements, shown next to its own. Encoders and protocols differ."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean

from raydd.evaluate.retrieval import RECALLS

_SOURCE = "published.csv"  # next to this module; its first lines say where the scores come from


@dataclass(frozen=True)
class Published:
    """One row of a published table."""

    method: str
    data: str
    pairs: int
    """Number of pairs; 0 for full data."""
    image_encoder: str
    text_encoder: str
    protocol: str
    """A: the image encoder and the text head are trained; B: both heads on frozen encoders; ?: not stated."""
    scores: dict[str, float]
    """Recalls in percent, and r_mean, their mean."""
    source: str


def published_rows(method: str, data: str, pairs: int) -> list[Published]:
    """Return the published scores of a method on a data set at a number of pairs.

    Args:
        method: name of the method.
        data: name of the data set; anything after a comma is ignored.
        pairs: number of pairs; 0 is full data.
    """
    name = data.lower().partition(",")[0]
    return [row for row in _published_table() if (row.method, row.data, row.pairs) == (method, name, pairs)]


def published_on(data: str, pairs: int) -> list[Published]:
    """Return the published scores on a data set at the nearest number of pairs, and those of full data.

    The best score comes last. The list is empty for a data set without published scores.
    """
    rows = [row for row in _published_table() if has_name(data, row.data)]
    budgets = sorted({row.pairs for row in rows if row.pairs}, key=lambda budget: abs(budget - pairs))
    return sorted((row for row in rows if row.pairs in (0, *budgets[:1])), key=lambda row: row.scores["r_mean"])


def has_name(data: str, known: str) -> bool:
    """Whether a data set is named after a known one, such as coco2014 or coco_karpathy after coco; coconut is not."""
    return bool(re.search(rf"(?<![^\W\d_]){re.escape(known)}(?![^\W\d_])", data.lower()))


@cache
def _published_table() -> tuple[Published, ...]:
    text = files("raydd.evaluate").joinpath(_SOURCE).read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return tuple(_parse_rows(csv.DictReader(lines)))


def _parse_rows(lines: csv.DictReader) -> Iterator[Published]:
    for line in lines:
        recalls = {name: float(line[name]) for name in RECALLS}
        yield Published(
            line["method"],
            line["data"],
            int(line["pairs"]),
            line["image_encoder"],
            line["text_encoder"],
            line["protocol"],
            {**recalls, "r_mean": fmean(recalls.values())},
            line["source"],
        )
