"""All that `raydd evaluate` is asked of one set: its own scores, its baselines, and its scores elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from raydd.config import Config
from raydd.data.class_folders import read_classes
from raydd.errors import RecordError
from raydd.plain_files import expanded
from raydd.progress import Progress, silent
from raydd.protocols import changed, open_workbench
from raydd.sets.read import OpenedSet, set_of_record
from raydd.settings import with_file, with_settings
from raydd.stages import final_synthetic, scores_of, synthetic_record
from raydd.stages.transferring import MadeSet, class_scores, own_scores, transferred_scores, unseen_scores
from raydd.store import Store

Seeds = Sequence[Mapping[str, float]]


@dataclass
class SetScores:
    """The rows of both tables: seeds by row."""

    title: str
    retrieval: dict[str, Seeds] = field(default_factory=dict)
    classes: dict[str, Seeds] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Mean, standard deviation and seeds of every metric of every row."""
        tables = {"retrieval": self.retrieval, "classes": self.classes}
        return {
            name: {row: {metric: _summary(seeds, metric) for metric in seeds[0]} for row, seeds in rows.items()}
            for name, rows in tables.items()
        }


def score_set(config: Config, store: Store, opened: OpenedSet | None = None, progress: Progress = silent) -> SetScores:
    """Score a set, or the one that the settings make. Whatever is refused is refused before anything is computed.

    Raises:
        RecordError: another image encoder is asked for, and the set has no pixels that it could read.
        ConfigError: the settings name other data or encoders than the set was made with, or an encoder that cannot be
            had.
    """
    if opened is not None:
        opened.provenance.require_encoders(config)
        with_pixels = opened.synthetic.pixels is not None
    else:
        with_pixels = config.distill.images != "features"
    if not with_pixels and any(_image_of(name) != config.encoders.image for name in config.evaluate.encoders):
        raise RecordError(
            "The set holds image features alone, which no other encoder can read. "
            "Score one that was made with distill.images pixels or features-then-pixels."
        )
    work = open_workbench(config, store, progress)
    others = {name: changed(work, _with_encoders(name)) for name in config.evaluate.encoders}
    for other in others.values():  # what is asked for must be there before anything is computed
        _ = other.image_encoder, other.text_encoder
    unseen = open_workbench(_unseen(config), store, progress) if config.evaluate.unseen else None
    if unseen is not None:
        _ = unseen.data
    if config.evaluate.classes:
        read_classes(expanded(config.evaluate.classes, "evaluate.classes"))
    if opened is None:
        final_synthetic(work)
        opened = set_of_record(synthetic_record(work))
    else:
        opened.require_data(work.data)
    made = made_set(opened)
    found = SetScores(f"{opened.title}, {config.evaluate.split}")
    found.retrieval["synthetic"] = own_scores(work, made)
    for name in config.evaluate.baselines:
        found.retrieval[name] = scores_of(work, name).seeds
    for encoders, other in others.items():
        for name, photographs in (("synthetic", False), ("its photographs", True)):
            found.retrieval[f"{name}, {encoders}"] = transferred_scores(other, made, photographs=photographs)
    if unseen is not None:
        name = Path(config.evaluate.unseen).stem
        found.retrieval[f"synthetic, on all of {name}"] = unseen_scores(work, made, unseen)
    if config.evaluate.classes:
        classes = expanded(config.evaluate.classes, "evaluate.classes")
        found.classes["synthetic"] = class_scores(work, made, classes)
    return found


def _image_of(encoders: str) -> str:
    return encoders.partition("+")[0]


def _with_encoders(encoders: str) -> dict[str, Any]:
    image, _, text = encoders.partition("+")
    settings = {"encoders.image": image, "encoders.image_weights": "", "experts.width": 0}
    return settings | ({"encoders.text": text, "encoders.text_weights": ""} if text else {})


def _unseen(config: Config) -> Config:
    """The settings of another data set, whose captions the set's own text encoder reads."""
    own = {f"encoders.{name}": value for name, value in asdict(config.encoders).items()}
    return with_settings(with_file(config, config.evaluate.unseen), own)


def made_set(opened: OpenedSet) -> MadeSet:
    """What is to be known of an opened set."""
    encoders = opened.provenance.encoders
    captions = tuple(row["nearest_captions"][0] for row in opened.rows)
    return MadeSet(opened.synthetic, opened.fingerprint, encoders.image.name, encoders.text.name, captions)


def _summary(seeds: Seeds, metric: str) -> dict[str, Any]:
    values = [seed[metric] for seed in seeds]
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else 0.0, "seeds": values}
