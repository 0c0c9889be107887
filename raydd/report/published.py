"""Published numbers, to stand beside ours: copied from the papers' own tables, with their encoders and protocol."""

import csv
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

# What a data set's name holds, and the name of its published rows.
_DATA = {"flickr30k": "flickr30k", "flickr8k": "flickr8k", "coco": "coco"}


def published_rows(data: str, pairs: int) -> Sequence[dict[str, Any]]:
    """The published rows of a data set at the nearest budget of pairs, and those of full data; none for other data.

    A row has method, venue, encoders, protocol (A: image encoder and text head are trained; B: both heads), the six
    recalls and r_mean in percent, and the table it was copied from.
    """
    known = next((row for name, row in _DATA.items() if name in data.lower()), "")
    with (files("raydd.report") / "published.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["dataset"] == known]
    budgets = [int(row["pairs"]) for row in rows if row["pairs"].isdecimal()]
    if not budgets:
        return []
    nearest = min(budgets, key=lambda budget: abs(budget - pairs))
    chosen = [row for row in rows if row["pairs"] in (str(nearest), "full")]
    return sorted(chosen, key=lambda row: float(row["r_mean"]))
