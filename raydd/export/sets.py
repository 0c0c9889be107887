"""A finished synthetic set as it lies in a folder: what the report, the exports and the search read."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raydd.data import DataSet
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError, RecordError
from raydd.evaluate.scores import Scores
from raydd.stages import load_synthetic
from raydd.store import Record
from raydd.store.records import MANIFEST

PAIRS = "pairs.parquet"


@dataclass(frozen=True)
class OpenedSet:
    """A synthetic set with what made it."""

    record: Record
    synthetic: SyntheticSet
    rows: tuple[Mapping[str, Any], ...]
    """The rows of `pairs.parquet`: image file, start pair, nearest real captions."""
    manifest: Mapping[str, Any]

    @property
    def facts(self) -> Mapping[str, Any]:
        """Data, encoders, experts and seconds, as the manifest has them."""
        return self.manifest["facts"]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The distillation's settings, without the section's name."""
        return self.manifest["settings"]

    @property
    def temperature(self) -> float:
        """The temperature that students divide cosines by."""
        return float(self.settings["temperature"])

    @property
    def width(self) -> int:
        """Width of the space that both heads share."""
        return int(self.facts["experts"]["width"])

    @property
    def title(self) -> str:
        """The set in words: `50 pairs from stamps`."""
        return f"{len(self.synthetic)} pairs from {self.facts['data']['name']}"


def open_set(folder: Path) -> OpenedSet:
    """The synthetic set of a folder: of a store, downloaded from MLflow, or copied; the store around it is optional.

    Raises:
        RecordError: the folder is not a complete set, or a file of it is damaged.
    """
    folder = folder.expanduser().resolve()
    if not (folder / MANIFEST).is_file():
        raise RecordError(
            f"{folder} is not a synthetic set: it has no {MANIFEST}. Give the folder that `raydd run` prints last."
        )
    return set_of_record(Record.of_folder(folder))


def set_of_record(record: Record) -> OpenedSet:
    """The synthetic set of a record of the store.

    Raises:
        RecordError: it is not complete, not a synthetic set, or damaged.
    """
    synthetic = load_synthetic(record)
    rows = pq.read_table(io.BytesIO(record.read(PAIRS))).to_pylist()
    return OpenedSet(record, synthetic, tuple(rows), record.manifest())


def require_data(opened: OpenedSet, data: DataSet) -> None:
    """Refuse settings that name other data than the set was made from.

    Raises:
        ConfigError: names both.
    """
    made_from = opened.facts["data"]
    if made_from["fingerprint"] != data.fingerprint:
        raise ConfigError(
            f"The set was made from {made_from['name']} ({made_from['fingerprint']}), these settings read {data.name} "
            f"({data.fingerprint}). Give the settings that it was made with: --config FILE.yaml."
        )


def kept_scores(opened: OpenedSet) -> dict[str, dict[str, Any]]:
    """The scores of a set that the store around it has, by split: metric to mean, std and seeds; the most seeds win."""
    store, found = opened.record.store, {}
    for name in store.names("scores"):
        if not name.endswith(f"/{MANIFEST}"):
            continue
        record = Record(store, "scores", name.split("/")[1], {}, {})
        manifest = record.manifest()
        if manifest["upstream"].get("synthetic") != opened.manifest["fingerprint"]:
            continue
        scores, split = Scores(tuple(record.read_json("scores.json"))), manifest["settings"]["split"]
        if split not in found or len(found[split].seeds) < len(scores.seeds):
            found[split] = scores
    return {split: scores.as_json() for split, scores in sorted(found.items())}
