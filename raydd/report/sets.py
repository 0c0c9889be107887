"""The parts of the page that show one synthetic set: gallery, similarity matrix, maps of both modalities, collapse."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.config import Config
from raydd.data import DataSet, load_image_encoder, load_text_encoder
from raydd.distill.experts import Experts, Heads
from raydd.distill.heads import embed
from raydd.errors import ConfigError
from raydd.evaluate.collapse import collapse_measures
from raydd.export.encoding import encode_images, encoders_of
from raydd.place import device_of
from raydd.progress import Progress
from raydd.report.film import address, distilled_again, film
from raydd.report.gallery import shown_pairs
from raydd.report.maps import modality_maps, similarity_map
from raydd.sets.read import OpenedSet
from raydd.store import Record

MEASURES = {
    "modality_gap": "distance between the mean directions of images and texts",
    "image_similarity": "mean cosine of different images; 1 is a collapsed modality",
    "text_similarity": "mean cosine of different texts",
    "image_concentration": "share of the images' variance in a tenth of the directions",
    "text_concentration": "share of the texts' variance in a tenth of the directions",
    "image_rank": "effective rank of the images, at most pairs less one",
    "text_rank": "effective rank of the texts",
}


@dataclass(frozen=True)
class Looks:
    """What the reader asked for."""

    plane: Literal["pca", "umap"] = "pca"
    """The plane of the maps."""
    frames: int = 0
    """Frames of the film; 0 is none."""


def require_data(opened: OpenedSet, data: DataSet) -> None:
    """Refuse settings that name other data than the set was made from.

    Raises:
        ConfigError: names both.
        RecordError: the set says that it started from pairs which the data set does not have.
    """
    made_from = opened.provenance.data
    if made_from.fingerprint != data.fingerprint:
        raise ConfigError(
            f"The set was made from {made_from.name} ({made_from.fingerprint}), these settings read {data.name} "
            f"({data.fingerprint}). Give the settings that it was made with: --config FILE.yaml."
        )
    opened.require_pairs(data.train)


def set_parts(opened: OpenedSet, data: DataSet, config: Config, looks: Looks, progress: Progress) -> dict[str, Any]:
    """The page's fields that show a set: pairs, similarity, maps and collapse measures.

    Args:
        opened: the set.
        data: the data that it was made from.
        config: the settings that made the set; of the user's own, weights files and places.
        looks: the plane of the maps, and whether there is a film.
        progress: told about encoded images.
    """
    device = device_of(config.place)
    encoder = load_image_encoder(encoders_of(opened, config), device)
    parts: dict[str, Any] = {
        "pairs": shown_pairs(opened, data.train, encoder.size),
        "pairs_note": _pairs_note(opened),
        "similarity": similarity_map(opened.synthetic.similarity.matrix()),
    }
    synthetic = opened.synthetic
    heads = expert_heads(opened, config)
    if heads is None:
        return parts
    images = [data.train.images[index] for index in synthetic.start_images.tolist()]
    captions = [data.train.captions[index] for index in synthetic.start_captions.tolist()]
    text_encoder = load_text_encoder(encoders_of(opened, config), device)
    with torch.no_grad():
        texts = text_encoder.encode(captions).float().cpu()
    start = _embedded(heads, encode_images(encoder, images, config, device, progress), texts)
    end = _embedded(heads, synthetic.image_features, synthetic.text_features)
    before, after = collapse_measures(*start), collapse_measures(*end)
    parts["maps"] = modality_maps(start, end, looks.plane)
    parts["collapse_table"] = [
        {"name": name, "start": before[f"collapse/{name}"], "end": after[f"collapse/{name}"], "words": words}
        for name, words in MEASURES.items()
    ]
    if looks.frames:
        states = [start, *distilled_again(config, opened.record.store, heads, looks.frames, progress)]
        parts["film"] = address(film(states))
        parts["film_words"] = (
            f"Images and texts of the distillation of features in {len(states)} states, the real pairs first, in the "
            "plane of their principal components."
        )
    return parts


def expert_heads(opened: OpenedSet, config: Config) -> Heads | None:
    """The first expert's heads at the last epoch that the distillation read; None where the store lacks them."""
    made, synthetic = opened.provenance, opened.synthetic
    stage, _, name = made.upstream.experts.rpartition("/")
    experts = Experts(
        Record(opened.record.store, stage, name, {}, {}),
        synthetic.image_features.shape[1],
        synthetic.text_features.shape[1],
        made.width,
        config.experts.seed,
        config.experts.count,
    )
    epoch = config.distill.expert_epochs[-1]
    return experts.snapshot(0, epoch) if experts.has(0, epoch) else None


def _embedded(
    heads: Heads, images: Float[Tensor, "N d"], texts: Float[Tensor, "N e"]
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    return embed(heads[0], images), embed(heads[1], texts)


def _pairs_note(opened: OpenedSet) -> str:
    made = opened.provenance.encoders
    encoders = f"{made.image.name} and {made.text.name}"
    if opened.synthetic.pixels is None:
        return (
            f"Image features of {encoders} were learned, not pixels: a pair shows the real image that it started from "
            "and the real captions nearest to its learned text feature."
        )
    return (
        f"Left: the synthetic image, and behind the slider the real one that it started from. Right: what was added, "
        f"six times as strong, around grey. Students see the images through {encoders} and train on the learned text "
        "features; the captions are the real ones nearest to them."
    )
