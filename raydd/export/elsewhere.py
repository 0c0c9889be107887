"""All that `raydd evaluate` is asked of one set: its own scores, its baselines, and its scores elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from raydd.config import Config
from raydd.data.class_folders import read_classes
from raydd.progress import Progress, silent
from raydd.sets.read import OpenedSet, open_set, set_of_record
from raydd.settings import with_file, with_settings
from raydd.stages import final_synthetic, full_scores, pairs, selected_scores, synthetic_record
from raydd.stages.transferring import (
    MadeSet,
    class_scores,
    own_scores,
    require_same_data,
    transferred_scores,
    unseen_scores,
)
from raydd.store import Store

Seeds = Sequence[Mapping[str, float]]


@dataclass
class Elsewhere:
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


def score_elsewhere(config: Config, store: Store, folder: Path | None, progress: Progress = silent) -> Elsewhere:
    """Score a folder's set, or the one that the settings make.

    Raises:
        RecordError: the folder is not a complete set.
        ConfigError: the settings name other data than the set was made from.
    """
    if folder is None:
        final_synthetic(config, store, progress)
        opened = set_of_record(synthetic_record(config, store))
    else:
        opened = open_set(folder)
    require_same_data(config, store, opened.provenance.data)
    if config.evaluate.unseen:  # what is asked for must be there before anything is computed
        pairs(with_file(config, config.evaluate.unseen), store, progress)
    if config.evaluate.classes:
        read_classes(Path(config.evaluate.classes).expanduser())
    made = made_set(opened)
    config = made.settings(config)
    found = Elsewhere(f"{opened.title}, {config.evaluate.split}")
    found.retrieval["synthetic"] = own_scores(config, store, made, progress)
    for name in config.evaluate.baselines:
        scores = full_scores if name == "full" else selected_scores
        arguments = () if name == "full" else (name,)
        found.retrieval[name] = scores(config, store, *arguments, progress=progress).seeds
    for encoders in config.evaluate.encoders:
        other = _with_encoders(config, encoders)
        for name, photographs in (("synthetic", False), ("its photographs", True)):
            found.retrieval[f"{name}, {encoders}"] = transferred_scores(
                other, store, made, photographs=photographs, progress=progress
            )
    if config.evaluate.unseen:
        name = Path(config.evaluate.unseen).stem
        found.retrieval[f"synthetic, on all of {name}"] = unseen_scores(
            config, store, made, config.evaluate.unseen, progress
        )
    if config.evaluate.classes:
        classes = Path(config.evaluate.classes).expanduser()
        found.classes["synthetic"] = class_scores(config, store, made, classes, progress)
    return found


def _with_encoders(config: Config, encoders: str) -> Config:
    image, _, text = encoders.partition("+")
    settings = {"encoders.image": image, "encoders.image_weights": "", "experts.width": 0}
    if text:
        settings |= {"encoders.text": text, "encoders.text_weights": ""}
    return with_settings(config, settings)


def made_set(opened: OpenedSet) -> MadeSet:
    """What is to be known of an opened set."""
    made = opened.provenance
    captions = tuple(row["nearest_captions"][0] for row in opened.rows)
    return MadeSet(
        opened.synthetic,
        opened.fingerprint,
        made.encoders.image.name,
        made.encoders.text.name,
        captions,
        made.temperature,
        made.width,
    )


def _summary(seeds: Seeds, metric: str) -> dict[str, Any]:
    values = [seed[metric] for seed in seeds]
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else 0.0, "seeds": values}
