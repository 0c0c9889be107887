"""Rows of the leaderboard (docs/leaderboard.yaml): the scores of a set, and everything needed to compare them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, StringConstraints

from raydd.code_version import code_version
from raydd.evaluate.retrieval import SHOWN, mean_and_std
from raydd.protocols import Workbench

Text = Annotated[str, StringConstraints(min_length=1)]
Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One set, or several sets made with the same settings, scored by one protocol on one split."""

    set: Text
    """Name of the set."""
    data: Text
    """Name of the data set that the set is scored on."""
    fingerprint: Text | None
    """Fingerprint of the data set; None for rows that were measured before it was recorded."""
    pairs: Annotated[int, Field(ge=1)]
    kB: Annotated[FiniteFloat, Field(gt=0)] | None  # noqa: N815 - the unit
    """Size of what a student trains on, in 1000 bytes; None if it was not recorded."""
    image_encoder: Text
    text_encoder: Text
    protocol: Literal["heads", "encoder"]
    """Which networks students train, as in `distill.protocol`."""
    split: Literal["val", "test"]
    choice: Literal["last", "best-on-split"]
    """Which epoch of a student is scored, as in `evaluate.choice`."""
    seeds: Annotated[int, Field(ge=1)]
    """Number of student seeds of each set."""
    sets: Annotated[int, Field(ge=1)] = 1
    """Number of sets. Scores are mean ± standard deviation over the sets, or, for one set, over its students."""
    scores: Mapping[str, tuple[Percent, Percent] | None]
    """Mean and standard deviation of IR@1 to TR@10 and r_mean, in percent; None if one was not recorded."""
    raydd: Text
    """Version of raydd that scored the set."""
    source: str
    """Where to get the set, or the command that makes it."""
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]
    """Date of the scores."""

    def as_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self)


def row_of(
    work: Workbench[Any], seeds: Sequence[Mapping[str, float]], *, set: str, pairs: int, stored_bytes: int, source: str
) -> Row:
    """Return the row of a set that was just scored on `evaluate.split` of a workbench's data.

    Args:
        work: the workbench whose students were scored.
        seeds: metrics of each student in percent.
        set: name of the set.
        pairs: number of synthetic pairs.
        stored_bytes: size of what a student trains on.
        source: where to get the set.
    """
    config = work.config
    means_and_stds = {metric: mean_and_std([seed[metric] for seed in seeds]) for metric in SHOWN}
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
        scores={metric: (round(mean, 4), round(std, 4)) for metric, (mean, std) in means_and_stds.items()},
        raydd=code_version(),
        source=source,
        date=datetime.now(UTC).date().isoformat(),
    )
