"""Opens a finished synthetic set in a folder, for the report, the exports, the search and the scores.

A folder may come from an untrusted source or a damaged disk. Anything wrong with it is a RecordError that names the
file.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, FiniteFloat
from torch import Tensor

from raydd.config import PlaceConfig
from raydd.data import DataSet, Pairs
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError, RecordError
from raydd.evaluate.retrieval import METRICS, Scores
from raydd.place import open_store
from raydd.plain_files import expanded
from raydd.sets.provenance import Name, Provenance, checked
from raydd.sets.write import PAIRS, SET, image_file
from raydd.store import Record, Store
from raydd.store.records import MANIFEST

_STAGE = "synthetic"
_HELP = "Copy the set again from an intact copy, or make it again."
_COLUMNS = {
    "pair": (pa.types.is_integer, "int64"),
    "image": (lambda kind: _is_text(kind) or pa.types.is_null(kind), "string"),
    "start_image": (lambda kind: _is_text(kind), "string"),
    "start_caption": (lambda kind: _is_text(kind), "string"),
    "nearest_captions": (lambda kind: pa.types.is_list(kind) and _is_text(kind.value_type), "list of strings"),
    "cosines": (lambda kind: pa.types.is_list(kind) and pa.types.is_floating(kind.value_type), "list of floats"),
}


@dataclass(frozen=True)
class OpenedSet:
    """A synthetic set with its provenance."""

    record: Record
    synthetic: SyntheticSet
    rows: tuple[Mapping[str, Any], ...]
    """The rows of `pairs.parquet`: image file, start pair, nearest real captions."""
    provenance: Provenance
    fingerprint: str
    """Name of the record that the set was made as, regardless of the folder's name now."""
    made: str
    """Date and time at which the set was made, ISO 8601."""
    manifest: Mapping[str, Any]
    """The manifest as read. Prefer the typed fields."""

    @property
    def title(self) -> str:
        """A title of the set, such as `50 pairs from stamps`."""
        return f"{len(self.synthetic)} pairs from {self.provenance.data.name}"

    def require_data(self, data: DataSet) -> None:
        """Refuse another data set than the set was made from, and start pairs that the data set does not have.

        Raises:
            ConfigError: the set was made from another data set.
            RecordError: a start pair's index is beyond the training images or captions.
        """
        source = self.provenance.data
        if source.fingerprint != data.fingerprint:
            raise ConfigError(
                f"The set was made from {source.name} ({source.fingerprint}), but data.* names {data.name} "
                f"({data.fingerprint}). Give the data settings of the set, and name the other data in evaluate.unseen."
            )
        self._require_pairs(data.train)

    def _require_pairs(self, train: Pairs) -> None:
        """Refuse start pairs that the data set does not have.

        Raises:
            RecordError: a start pair's index is beyond the training images or captions.
        """
        for name, starts, count in (
            ("start_images", self.synthetic.start_images, len(train)),
            ("start_captions", self.synthetic.start_captions, len(train.captions)),
        ):
            if int(starts.max()) >= count:
                raise RecordError(
                    f"{self.record.folder}/{SET}: {name} names number {int(starts.max())}, but there are {count} in "
                    f"train. {_HELP}"
                )


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    """The fields of any record's manifest that are read here."""

    stage: Name
    fingerprint: Name
    made: Name
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _ScoresManifest:
    """The fields of a scores record's manifest that are read here."""

    upstream: dict[str, Name]
    settings: dict[str, Any]


def open_set(folder: Path) -> OpenedSet:
    """Open the synthetic set in a folder: of a store, downloaded from MLflow, or copied without its store.

    Raises:
        RecordError: the folder is not a complete set, or one of its files is damaged or has impossible content.
    """
    folder = expanded(folder, "The folder of a set").resolve()
    if not (folder / MANIFEST).is_file():
        raise RecordError(
            f"{folder} is not a synthetic set: it has no {MANIFEST}. Give the folder that `raydd run` prints last."
        )
    return set_of_record(Record.of_folder(folder))


def store_of(opened: OpenedSet, place: PlaceConfig) -> Store:
    """Open the store to use for a set.

    A store that the settings name comes first. Otherwise it is the store around the set's folder, if that store has the
    records that made the set: its experts, or features if it read no experts.
    """
    record, experts = opened.record, opened.provenance.upstream.experts
    upstream = f"experts/{experts.rpartition('/')[2]}" if experts else "features"
    named_store = place.store or place.home or os.environ.get("RAYDD_STORE")
    if named_store or record.copied_to or not record.store.names(upstream):
        return open_store(place)
    return open_store(replace(place, store=record.store.root))


def set_of_record(record: Record) -> OpenedSet:
    """Open the synthetic set of a record of the store.

    Raises:
        RecordError: the record is incomplete, damaged or not a synthetic set, or a file has impossible content.
    """
    path = _file_path(record, MANIFEST)
    manifest = _read_manifest(record)
    header: _Manifest = checked(_Manifest, manifest, path)
    if header.stage != _STAGE:
        raise RecordError(
            f"{record.folder} is a record of the stage {header.stage!r}, not a synthetic set. Give the folder that "
            "`raydd run` prints last."
        )
    provenance = Provenance.from_json(header.facts, path)
    synthetic = load_synthetic(record)
    for name, stated, actual in (
        ("pairs", provenance.pairs, len(synthetic)),
        ("loss", provenance.loss, synthetic.loss),
        ("stored_bytes", provenance.stored_bytes, synthetic.stored_bytes),
    ):
        if stated != actual:
            raise RecordError(f"{path} says that {name} is {stated}, but {SET} has {actual}. {_HELP}")
    rows = _read_rows(record, len(synthetic), with_images=synthetic.pixels is not None)
    return OpenedSet(record, synthetic, rows, provenance, header.fingerprint, header.made, manifest)


def load_synthetic(record: Record) -> SyntheticSet:
    """Read the tensors of a complete record as a set.

    Raises:
        RecordError: the record is not complete, or its tensors are damaged or do not fit together.
    """
    if not record.complete:
        raise RecordError(f"{record.folder} is not complete. Run `raydd distill` with the same settings.")
    manifest = _read_manifest(record)
    facts = manifest.get("facts") if isinstance(manifest, dict) else None
    try:
        return SyntheticSet.of_tensors(_read_tensors(record), facts.get("set") if isinstance(facts, dict) else facts)  # type: ignore[arg-type]
    except RecordError as error:
        path = f"{record.store.root}/{record.folder}"
        raise error if path in str(error) else RecordError(f"{path}: {error}") from error


def stored_scores(
    opened: OpenedSet, store: Store | None = None, *, made_with: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Read a set's scores, by split: mean, std and seeds of each metric.

    If a split has several records of scores, the one with the most seeds is read. Scores that were chosen on their own
    split (`evaluate.choice` best-on-split) are left out.

    Args:
        opened: the set; the store around it is read.
        store: another store to read as well, such as that of `store_of`, where a copied set is scored.
        made_with: settings of the scores' records that must have these values; by default any scores of the set are
            read, also those of students with another recipe.

    Raises:
        RecordError: a record of scores is damaged.
    """
    stores = {each.root: each for each in (opened.record.store, store) if each}
    records = [
        Record(each, "scores", name.split("/")[1], {}, {})
        for each in stores.values()
        for name in each.names("scores")
        if name.endswith(f"/{MANIFEST}")
    ]
    scores_by_split: dict[str, Scores] = {}
    for record in records:
        manifest: _ScoresManifest = checked(_ScoresManifest, _read_manifest(record), _file_path(record, MANIFEST))
        split, choice = manifest.settings.get("split"), manifest.settings.get("choice", "last")
        if manifest.upstream.get("synthetic") != opened.fingerprint or not isinstance(split, str) or choice != "last":
            continue
        if any(manifest.settings.get(name) != value for name, value in (made_with or {}).items()):
            continue
        scores = Scores(_read_seeds(record))
        if split not in scores_by_split or len(scores_by_split[split].seeds) < len(scores.seeds):
            scores_by_split[split] = scores
    return {split: scores.as_json() for split, scores in sorted(scores_by_split.items())}


_Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]


def _read_seeds(record: Record) -> tuple[dict[str, float], ...]:
    file = "scores.json"
    seeds = checked(
        tuple[dict[str, _Percent], ...], _read_file(record, file, record.read_json), _file_path(record, file)
    )
    if not seeds or any(set(METRICS) - set(seed) for seed in seeds):
        raise RecordError(f"{_file_path(record, file)} lacks scores: each seed has {', '.join(METRICS)}. {_HELP}")
    return seeds


def _read_manifest(record: Record) -> Any:
    return _read_file(record, MANIFEST, record.read_json)


def _read_tensors(record: Record) -> dict[str, Tensor]:
    return _read_file(record, SET, record.read_tensors)


def _read_rows(record: Record, pairs: int, *, with_images: bool) -> tuple[Mapping[str, Any], ...]:
    """Read the rows of `pairs.parquet`; check their number and the type of each column."""
    path = _file_path(record, PAIRS)
    content = _read_file(record, PAIRS, record.read)
    try:
        parquet = pq.ParquetFile(io.BytesIO(content))
        # Checked before reading, since a small file may claim any number of rows.
        if parquet.metadata.num_rows != pairs:
            raise RecordError(f"{path} has {parquet.metadata.num_rows} rows, but there are {pairs} pairs. {_HELP}")
        schema = parquet.schema_arrow
        for name, (is_valid, type_name) in _COLUMNS.items():
            column = schema.get_field_index(name)
            if column < 0:
                raise RecordError(f"{path} has no column {name}, or more than one. {_HELP}")
            if not is_valid(schema.field(column).type):
                raise RecordError(f"{path}: {name} is {schema.field(column).type}, but must be {type_name}. {_HELP}")
        rows = parquet.read(columns=list(_COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise RecordError(f"{path} cannot be read as Parquet ({_first_line(error)}). {_HELP}") from error
    for number, row in enumerate(rows):
        if problem := _describe_problem(row, number, with_images):
            raise RecordError(f"{path}: row {number} {problem}. {_HELP}")
    return tuple(rows)


def _describe_problem(row: Mapping[str, Any], number: int, with_images: bool) -> str:
    """Say what is wrong with a row; empty if nothing is."""
    if row["pair"] != number:
        return f"has the pair number {row['pair']}"
    if row["image"] != (image_file(number) if with_images else None):
        return f"names the image {row['image']!r}"
    if row["start_image"] is None or row["start_caption"] is None:
        return "does not say what it started from"
    captions, cosines = row["nearest_captions"], row["cosines"]
    if not captions or not cosines or len(captions) != len(cosines) or None in captions:
        return "lacks nearest captions or their cosines"
    if not all(cosine is not None and -1.01 <= cosine <= 1.01 for cosine in cosines):
        return "has a cosine outside -1 to 1"
    return ""


def _read_file(record: Record, name: str, reader: Any) -> Any:
    """Read a file of a record with one of its readers. Any error, also on a forged file, becomes a RecordError."""
    try:
        return reader(name)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, MemoryError) as error:
        error_text = f"{type(error).__name__}: {_first_line(error)}"
        raise RecordError(f"{_file_path(record, name)} cannot be read ({error_text}). {_HELP}") from error


def _file_path(record: Record, name: str) -> str:
    return f"{record.store.root}/{record.folder}/{name}"


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
