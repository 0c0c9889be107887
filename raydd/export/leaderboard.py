"""A row of the leaderboard (docs/leaderboard.yaml): one set's score and all that has to be known to compare it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, StringConstraints, TypeAdapter, ValidationError

from raydd.code_version import code_version
from raydd.errors import ConfigError, shown
from raydd.evaluate.retrieval import METRICS
from raydd.protocols import Workbench
from raydd.settings import read_yaml

SHOWN = (*METRICS[:6], "r_mean")
Text = Annotated[str, StringConstraints(min_length=1)]
Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One set, scored by one protocol on one split."""

    set: Text
    """What the set is called."""
    data: Text
    """The data set that scores are of."""
    fingerprint: Text | None
    """Of the data set; None of rows that were measured before it was kept."""
    pairs: Annotated[int, Field(ge=1)]
    kB: Annotated[FiniteFloat, Field(gt=0)] | None  # noqa: N815 - the unit
    """Size of what a student trains on, in 1000 bytes; None where it was not recorded."""
    image_encoder: Text
    text_encoder: Text
    protocol: Literal["heads", "encoder"]
    """What students train, as `distill.protocol`."""
    split: Literal["val", "test"]
    choice: Literal["last", "best-on-split"]
    """Which epoch of a student is scored, as `evaluate.choice`."""
    seeds: Annotated[int, Field(ge=1)]
    """Student seeds, over which each score is a mean ± standard deviation."""
    scores: Mapping[str, tuple[Percent, Percent] | None]
    """Mean and standard deviation of IR@1 to TR@10 and r_mean, in percent; None where one was not recorded."""
    raydd: Text
    """Version of the code that scored it."""
    source: str
    """Where the set is to be had, or the command that makes it."""
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]
    """Day of the scores."""

    def as_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)


def row_of(
    work: Workbench[Any], seeds: Sequence[Mapping[str, float]], *, set: str, pairs: int, stored_bytes: int, source: str
) -> Row:
    """The row of a set that was just scored on `evaluate.split` of a workbench's data."""
    config = work.config
    found = {metric: [seed[metric] for seed in seeds] for metric in SHOWN}
    return Row(
        set=set,
        data=work.data.name,
        fingerprint=work.data.fingerprint,
        pairs=pairs,
        kB=round(stored_bytes / 1000, 1),
        image_encoder=config.encoders.image,
        text_encoder=config.encoders.text,
        protocol=config.distill.protocol,
        split=config.evaluate.split,
        choice=config.evaluate.choice,
        seeds=len(seeds),
        scores={
            metric: (round(fmean(values), 4), round(stdev(values), 4) if len(values) > 1 else 0.0)
            for metric, values in found.items()
        },
        raydd=code_version(),
        source=source,
        date=datetime.now(UTC).date().isoformat(),
    )


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, a list in YAML.

    Raises:
        ConfigError: naming the row and the first field that is missing or wrong.
    """
    tree = read_yaml(path, "file of rows")
    if not isinstance(tree, list):
        raise ConfigError(f"{path} must be a list of rows, not {shown(tree)}.")
    return [_checked(each, f"{path}: row {number}") for number, each in enumerate(tree, 1)]


def _checked(row: Any, where: str) -> Row:
    try:
        found = TypeAdapter(Row).validate_python(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}. Correct the row.") from error
    lacking = [metric for metric in SHOWN if metric not in found.scores]
    if lacking or found.scores["r_mean"] is None:
        raise ConfigError(f"{where} has no score {', '.join(lacking) or 'r_mean'}. Copy the row that raydd wrote.")
    if not found.source:
        raise ConfigError(f"{where} does not say where the set is to be had. Write its address as source.")
    return found
