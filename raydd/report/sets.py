"""The parts of the page that show one synthetic set: gallery, similarity matrix, embedding maps, collapse measures."""

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raydd import stages
from raydd.charts.film import Embeddings, address, film
from raydd.charts.maps import modality_maps, similarity_map
from raydd.errors import ConfigError
from raydd.evaluate.collapse import collapse_measures, encoder_similarities
from raydd.protocols import Workbench, open_workbench, trial_settings
from raydd.report.gallery import AMPLIFIED, shown_pairs
from raydd.sets.read import OpenedSet
from raydd.settings import with_settings
from raydd.store import Record, Store

MEASURES = {
    "modality_gap": "distance between the mean directions of images and texts",
    "image_similarity": "mean cosine of different images; 1 is a collapsed modality",
    "text_similarity": "mean cosine of different texts",
    "image_concentration": "share of the images' variance in a tenth of the directions",
    "text_concentration": "share of the texts' variance in a tenth of the directions",
    "image_rank": "effective rank of the images, at most the number of pairs minus 1",
    "text_rank": "effective rank of the texts",
    "image_encoder_similarity": "mean cosine of the encoder's features of different images, before any head",
    "text_encoder_similarity": "mean cosine of the encoder's features of different texts",
}

_RECOMPUTED_STAGES = ("synthetic", "pixels", "scores")  # records that the film makes again instead of reading them


@dataclass(frozen=True)
class PageOptions:
    """Options of the page."""

    plane: Literal["pca", "umap"] = "pca"
    """Projection of the embedding maps to two dimensions."""
    frames: int = 0
    """Most frames of the film after the one of the start; 0: no film."""


def set_parts(opened: OpenedSet, work: Workbench[Any], page_options: PageOptions) -> dict[str, Any]:
    """Return the page's fields that show a set: pairs, similarity, maps and collapse measures.

    Args:
        opened: the set.
        work: workbench of the settings that made the set.
        page_options: projection of the maps, and number of frames of the film.

    Raises:
        ConfigError: a film is requested, and the workbench's store lacks the experts of the set.
    """
    synthetic, networks = opened.synthetic, last_expert(opened, work)
    if networks is None and page_options.frames:
        raise ConfigError(
            f"--film needs the experts {opened.provenance.upstream.experts}, which are not in the store "
            f"{work.store.root}. Name the store that made the set with --place.store, or leave --film out."
        )
    parts: dict[str, Any] = {
        "pairs": shown_pairs(opened, work.data.train, work.image_encoder.size),
        "pairs_note": _pairs_note(opened),
        "similarity": similarity_map(synthetic.similarity.matrix()),
    }
    if networks is None:
        return {**parts, "facts": {"embedding maps": "left out, since the store lacks the experts of the set"}}
    start_set = work.with_start_pairs(synthetic)
    start, end = work.embed(networks, start_set), work.embed(networks, synthetic)
    start_measures, end_measures = (
        collapse_measures(*embedded) | encoder_similarities(pairs.image_features, pairs.text_features)
        for embedded, pairs in ((start, start_set), (end, synthetic))
    )
    parts["maps"] = modality_maps(start, end, page_options.plane)
    parts["collapse_table"] = [
        {
            "name": name,
            "start": start_measures[f"collapse/{name}"],
            "end": end_measures[f"collapse/{name}"],
            "words": description,
        }
        for name, description in MEASURES.items()
    ]
    if page_options.frames:
        states = [start, *distilled_again(work, networks, page_options.frames)]
        parts["film"] = address(film(states))
        parts["film_words"] = (
            f"Images and texts in {len(states)} states of the distillation, starting with the real pairs, in the plane "
            "of their principal components."
        )
    return parts


def distilled_again(work: Workbench[Any], networks: Any, frames: int) -> list[Embeddings]:
    """Repeat a distillation, and return embeddings of its images and texts over the steps.

    Args:
        work: workbench of the settings that made the set; its store has the features and the experts, and is not
            written to: what the repetition lacks is made in a temporary store.
        networks: networks of an expert, which embed the pairs.
        frames: the most states to return; they are equally far apart.

    Raises:
        ConfigError: the store is a bucket, whose records cannot be linked into a temporary store.
    """
    if work.store.folder is None:
        raise ConfigError("--film needs a store in a folder. Copy the set's features and experts to a folder.")
    config = with_settings(work.config, trial_settings(work.config))
    with tempfile.TemporaryDirectory() as scratch:
        _link_files(work.store.folder, Path(scratch))
        rerun = open_workbench(config, Store(scratch, Path(scratch) / "cache"), work.progress, work.opened)
        points = stages.distill(rerun, every=math.ceil(config.distill.steps / frames))
        return [rerun.embed(networks, point.synthetic) for point in points]


def _link_files(store: Path, scratch: Path) -> None:
    """Link each file of a store's folder into another one, except for records that the film makes again.

    Files are linked rather than folders: what is written replaces a link, and would be written through a linked folder.
    """
    for stage_folder in store.iterdir():
        if stage_folder.name in _RECOMPUTED_STAGES:
            continue
        for folder, _, names in os.walk(stage_folder):
            copy = scratch / Path(folder).relative_to(store)
            copy.mkdir(parents=True)
            for name in names:
                (copy / name).symlink_to(Path(folder) / name)


def last_expert(opened: OpenedSet, work: Workbench[Any]) -> Any | None:
    """Return the first expert's networks at the last epoch that the distillation read; None if `work.store` lacks them.

    If the distillation read no experts, these are networks before training, initialised from a seed.
    """
    name = (opened.provenance.upstream.experts or "none").rpartition("/")[2]
    record = Record(work.store, "experts", name, {}, {})
    experts, epoch = work.experts_in(record, opened.synthetic), work.config.distill.expert_epochs[-1]
    return experts.snapshot(0, epoch) if experts.has(0, epoch) else None


def _pairs_note(opened: OpenedSet) -> str:
    encoders = opened.provenance.encoders
    if opened.synthetic.pixels is None:
        return (
            f"Features of {encoders.image.name} were learned, not pixels. Each pair therefore shows the real image "
            "that it started from, and the real captions nearest to its learned text feature."
        )
    return (
        f"Left: the synthetic image, and behind the slider the real image that it started from. Right: the difference "
        f"between the two, amplified {AMPLIFIED} times, around grey. For students, {encoders.image.name} encodes "
        f"the images; the texts are learned features of {encoders.text.name}. The captions shown are the real captions "
        "nearest to them."
    )
