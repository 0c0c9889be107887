"""Computes what `raydd evaluate` reports of one set: its scores, its baselines, and its scores on other data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from raydd.config import Config
from raydd.data.class_folders import read_classes
from raydd.data.encoders import image_identity, resized, text_identity
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError, RecordError
from raydd.evaluate.retrieval import summary
from raydd.export.leaderboard import Row, row_of
from raydd.outside import without_folder
from raydd.plain_files import expanded
from raydd.progress import Progress, silent
from raydd.protocols import Workbench, cached, changed, open_workbench
from raydd.sets.foreign import ForeignSet
from raydd.sets.read import OpenedSet, set_of_record
from raydd.settings import with_file, with_settings
from raydd.stages import final_synthetic, scores_of, scores_of_set, synthetic_record
from raydd.stages.transferring import ScoredSet, class_scores, own_scores, transferred_scores, unseen_scores
from raydd.store import Store

Seeds = Sequence[Mapping[str, float]]


@dataclass
class SetScores:
    """The rows of the retrieval table and of the classification table: metrics of each student, by row."""

    title: str
    row: Row
    """The set's own scores as a row of the leaderboard."""
    retrieval: dict[str, Seeds] = field(default_factory=dict)
    classes: dict[str, Seeds] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return mean, standard deviation and values of each seed, for every metric of every row."""
        tables = {"retrieval": self.retrieval, "classes": self.classes}
        return {
            name: {row: {metric: summary(seeds, metric) for metric in seeds[0]} for row, seeds in rows.items()}
            for name, rows in tables.items()
        }


def score_set(config: Config, store: Store, opened: OpenedSet | None = None, progress: Progress = silent) -> SetScores:
    """Score a set; by default the set that the settings make. Invalid requests fail before anything is computed.

    Raises:
        RecordError: `evaluate.encoders` names another image encoder, and the set has no pixels for it to encode.
        ConfigError: the settings name other data or encoders than the set was made with, or an encoder that is not
            available.
    """
    if opened is not None:
        opened.provenance.require_encoders(config)
        with_pixels = opened.synthetic.pixels is not None
    else:
        with_pixels = config.distill.images != "features"
    if not with_pixels and any(_image_encoder_name(name) != config.encoders.image for name in config.evaluate.encoders):
        raise RecordError(
            "The set has image features but no pixels, so another image encoder cannot encode its images. "
            "Score a set that was made with distill.images pixels or features-then-pixels."
        )
    work = open_workbench(config, store, progress)
    transfer_works = {name: changed(work, _encoder_changes(config, name)) for name in config.evaluate.encoders}
    for transfer_work in transfer_works.values():  # fail on an unavailable encoder before computing anything
        _ = transfer_work.image_encoder, transfer_work.text_encoder
    unseen = _open_unseen(work)
    if opened is None:
        final_synthetic(work)
        opened = set_of_record(synthetic_record(work))
    else:
        opened.require_data(work.data)
    scored_set, seeds = made_set(opened), scores_of_set(work, opened).seeds
    stored_bytes = opened.synthetic.stored_bytes
    row = row_of(work, seeds, set=name_of(opened), pairs=len(opened.synthetic), stored_bytes=stored_bytes, source="")
    scores = _with_baselines(work, opened.title, row, seeds)
    for encoders, transfer_work in transfer_works.items():
        for name, photographs in (("synthetic", False), ("its photographs", True)):
            scores.retrieval[f"{name}, {encoders}"] = transferred_scores(
                transfer_work, scored_set, photographs=photographs
            )
    return _add_other_data_scores(scores, work, scored_set, unseen)


def score_foreign(config: Config, store: Store, foreign: ForeignSet, progress: Progress = silent) -> SetScores:
    """Score a set that other code made, with the encoders and students of the settings, as raydd's own sets.

    Raises:
        ConfigError: the set's features are from other encoders than the settings name, or the students of
            `distill.protocol` need pixels and the set has image features.
    """
    encoders = config.encoders
    for side, set_encoder, config_encoder in (
        ("image", foreign.image_encoder, encoders.image),
        ("text", foreign.text_encoder, encoders.text),
    ):
        if set_encoder and without_folder(set_encoder) != without_folder(config_encoder):
            raise ConfigError(
                f"{foreign.name} has {side} features of {set_encoder}, but encoders.{side} is {config_encoder}. "
                f"Give --encoders.{side} {set_encoder}."
            )
    if foreign.image_encoder and "images" not in cached(config):
        raise ConfigError(
            f"{foreign.name} has image features, but under distill.protocol encoder students train the image encoder, "
            "which needs pixels. Leave distill.protocol out."
        )
    if config.evaluate.encoders:
        raise ConfigError(
            "evaluate.encoders is for sets that raydd made, whose encoders are known. Run one command for each "
            "encoder, with --encoders.image and --encoders.text."
        )
    # Baselines get as many pairs as the set.
    work = open_workbench(with_settings(config, {"distill.pairs": len(foreign)}), store, progress)
    unseen = _open_unseen(work)
    scored_set = _encode_foreign(work, foreign)
    title = f"{foreign.name}, {len(foreign)} pairs on {work.data.name}"
    seeds, stored_bytes = own_scores(work, scored_set), foreign.stored_bytes
    row = row_of(work, seeds, set=foreign.name, pairs=len(foreign), stored_bytes=stored_bytes, source=foreign.source)
    scores = _with_baselines(work, title, row, seeds)
    return _add_other_data_scores(scores, work, scored_set, unseen)


def _encode_foreign(work: Workbench[Any], foreign: ForeignSet) -> ScoredSet:
    """Return a set that other code made, as a workbench's students train on it: pixels and captions are encoded.

    Raises:
        ConfigError: the set's features have another width than those of the encoder.
    """
    encoders, images, texts = work.config.encoders, foreign.images, foreign.texts
    pixels = None
    if not foreign.image_encoder:
        size = work.image_encoder.size
        pixels = torch.cat([255 * resized(part / 255, size) for part in images.split(work.images_at_once)])
        images = work.encode_pixels(pixels)
    if isinstance(texts, tuple):
        texts = work.text_encoder.encode(texts).float().cpu()
    centre = foreign.image_centre
    if centre is not None and len(centre) != work.image_encoder.width:
        raise ConfigError(
            f"{foreign.name} has a centre of {len(centre)} numbers, but the features of {encoders.image} are "
            f"{work.image_encoder.width} wide. Give the encoder that made it."
        )
    for side, rows, width, name in (
        ("image", images, work.image_encoder.width, encoders.image),
        ("text", texts, work.captions.width, encoders.text),
    ):
        if rows.shape[1] != width:
            raise ConfigError(
                f"{foreign.name} has {side} features [{rows.shape[0]} {rows.shape[1]}], but those of {name} are "
                f"[{rows.shape[0]} {width}]. Give the encoder, weights and pooling that made these features."
            )
    unknown_starts = torch.zeros(len(foreign), dtype=torch.long)  # the start pairs of a foreign set are unknown
    synthetic = SyntheticSet(
        images,
        texts,
        foreign.similarity,
        foreign.rate_image,
        foreign.rate_text,
        foreign.loss,
        start_images=unknown_starts,
        start_captions=unknown_starts,
        pixels=None if "images" in work.cached else pixels,  # type: ignore[arg-type] - not rounded
        image_centre=centre,
    )
    return ScoredSet(synthetic, foreign.fingerprint, image_identity(encoders), text_identity(encoders), ())


def _open_unseen(work: Workbench[Any]) -> Workbench[Any] | None:
    """Check that the data of `evaluate.unseen` and `evaluate.classes` can be read, before anything is computed.

    Returns:
        The workbench of `evaluate.unseen`; None if the setting is empty.
    """
    evaluate = work.config.evaluate
    unseen = open_workbench(_unseen_config(work.config), work.store, work.progress) if evaluate.unseen else None
    if unseen is not None:
        _ = unseen.data
    if evaluate.classes:
        read_classes(expanded(evaluate.classes, "evaluate.classes"))
    return unseen


def _with_baselines(work: Workbench[Any], title: str, row: Row, seeds: Seeds) -> SetScores:
    """Return the scores of the set, which are its row of the leaderboard too, with those of its baselines."""
    evaluate = work.config.evaluate
    baselines = {name: scores_of(work, name).seeds for name in evaluate.baselines}
    return SetScores(f"{title}, {evaluate.split}", row, {"synthetic": seeds, **baselines})


def _add_other_data_scores(
    scores: SetScores, work: Workbench[Any], scored_set: ScoredSet, unseen: Workbench[Any] | None
) -> SetScores:
    """Add the scores on `evaluate.unseen` and `evaluate.classes`."""
    evaluate = work.config.evaluate
    if unseen is not None:
        scores.retrieval[f"synthetic, on all of {Path(evaluate.unseen).stem}"] = unseen_scores(work, scored_set, unseen)
    if evaluate.classes:
        scores.classes["synthetic"] = class_scores(work, scored_set, expanded(evaluate.classes, "evaluate.classes"))
    return scores


def _image_encoder_name(encoders: str) -> str:
    return encoders.partition("+")[0]


def _encoder_changes(config: Config, encoders: str) -> dict[str, Any]:
    """Return the settings for other encoders; weights, size and pooling of an encoder do not suit another one."""
    image, _, text = encoders.partition("+")
    changes: dict[str, Any] = {"experts.width": 0}
    if image != config.encoders.image:
        changes |= {"encoders.image": image, "encoders.image_weights": "", "encoders.image_size": 0}
    if text not in ("", config.encoders.text):
        changes |= {"encoders.text": text, "encoders.text_weights": "", "encoders.text_pooling": "default"}
    return changes


def _unseen_config(config: Config) -> Config:
    """Return the settings of the data set `evaluate.unseen`, with the encoders of the set."""
    encoder_settings = {f"encoders.{name}": value for name, value in asdict(config.encoders).items()}
    return with_settings(with_file(config, config.evaluate.unseen), encoder_settings)


def name_of(opened: OpenedSet) -> str:
    """Return the name of a raydd set for tables that also have sets of other code: its method and fingerprint."""
    return f"{without_folder(str(opened.provenance.settings.get('distill.method', 'raydd')))} {opened.fingerprint}"


def made_set(opened: OpenedSet) -> ScoredSet:
    """Return an opened set as a set to be scored."""
    encoders = opened.provenance.encoders
    captions = tuple(row["nearest_captions"][0] for row in opened.rows)
    return ScoredSet(opened.synthetic, opened.fingerprint, encoders.image.identity, encoders.text.identity, captions)
