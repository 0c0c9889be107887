"""What a synthetic set is worth elsewhere: with other encoders, on classes and on pairs that it was not made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.config import Config
from raydd.data import Features, load_image_encoder, load_text_encoder, open_pixels
from raydd.data.augment import transform_of
from raydd.data.checking import image_digests
from raydd.data.class_folders import read_classes
from raydd.data.encoders import image_identity, resized, text_identity
from raydd.data.encoding import ViewsOf, batches_of, encode_views
from raydd.distill.heads import Head, embed
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError, RecordError
from raydd.evaluate.retrieval import retrieval_scores
from raydd.evaluate.students import synthetic_pairs
from raydd.evaluate.zero_shot import prompts, score_classes
from raydd.place import device_of, images_at_once
from raydd.progress import Progress, silent
from raydd.settings import with_file, with_settings
from raydd.stages.features import features as make_features
from raydd.stages.features import held_out
from raydd.stages.features import pairs as load_pairs
from raydd.stages.students import score_students, trained_students, with_fitted_rates
from raydd.store import Record, Store, fingerprint

VERSION = 1
SCORES = "scores.json"
_ONE_VIEW = {"features.views": 1, "features.augment": "none"}  # nothing is trained on all of these features
_HEADROOM = 4.0  # other encoders may ask for larger rates than those that were learned


@dataclass(frozen=True)
class MadeSet:
    """A synthetic set with what has to be known of how it was made."""

    synthetic: SyntheticSet
    fingerprint: str
    image_encoder: str
    text_encoder: str
    captions: tuple[str, ...]
    """The real caption nearest to each text feature, which stands for it with another text encoder."""
    temperature: float
    width: int
    """Width of the shared space."""

    def settings(self, config: Config) -> Config:
        """The config with what belongs to the set: its encoders, number of pairs, students' temperature and width."""
        given, own = config.experts.width, self.synthetic.image_features.shape[1]
        return with_settings(
            config,
            {
                "encoders.image": self.image_encoder,
                "encoders.text": self.text_encoder,
                "experts.temperature": self.temperature,
                "experts.width": given if (given or own) == self.width else self.width,
                "distill.pairs": len(self.synthetic),
                "distill.minibatch": 0,
                "distill.rank": min(config.distill.rank, len(self.synthetic)),
            },
        )


def own_scores(config: Config, store: Store, made: MadeSet, progress: Progress = silent) -> list[dict[str, float]]:
    """Scores of a set with its own encoders; those of the config have to be the same."""

    def score() -> list[dict[str, float]]:
        cached = make_features(config, store, progress)
        seeds = range(config.evaluate.seeds)
        return list(score_students(config, cached, synthetic_pairs(made.synthetic), config.evaluate.split, seeds).seeds)

    return _kept(config, store, made, {"row": "own"}, score)


def transferred_scores(
    config: Config, store: Store, made: MadeSet, *, photographs: bool = False, progress: Progress = silent
) -> list[dict[str, float]]:
    """Scores of a set with the config's encoders, which need not be its own; the students' rates are fitted on val.

    Args:
        config: all settings; the encoders are those to score with.
        store: where features and scores are kept.
        made: the set; its pixels are encoded anew, and its texts are read as their nearest real captions where the text
            encoder is another one.
        photographs: take the photographs that the pairs started from in place of the learned pixels.
        progress: told about the features.

    Raises:
        RecordError: the set has no pixels to encode.
    """

    def score() -> list[dict[str, float]]:
        cached = held_out(config, store, progress)
        moved = _moved(config, store, made, photographs)
        raised = replace(moved, rate_image=_HEADROOM * moved.rate_image, rate_text=_HEADROOM * moved.rate_text)
        fitted, _ = with_fitted_rates(config, cached, raised)
        seeds = range(config.evaluate.seeds)
        return list(score_students(config, cached, synthetic_pairs(fitted), config.evaluate.split, seeds).seeds)

    settings = {"row": "photographs" if photographs else "pixels", "encoders": _identities(config)}
    return _kept(config, store, made, settings, score)


def class_scores(
    config: Config, store: Store, made: MadeSet, folder: Path, progress: Progress = silent
) -> list[dict[str, float]]:
    """ACC@1 and ACC@5 of the set's students on a folder of class folders, a dictionary a seed."""
    images, texts, labels, content = _class_features(config, store, folder, progress)

    def score() -> list[dict[str, float]]:
        image, text = _heads(config, made)
        device = device_of(config.place)
        return score_classes(image, text, images.to(device), texts.to(device), labels.to(device))

    return _kept(config, store, made, {"row": "classes", "classes": content}, score)


def unseen_scores(
    config: Config, store: Store, made: MadeSet, file: str, progress: Progress = silent
) -> list[dict[str, float]]:
    """Retrieval scores of the set's students on all pairs of another data set, splits joined, a dictionary a seed."""
    other = with_settings(with_file(config, file), {**_ONE_VIEW, **_encoders_of(config)})
    cached = make_features(other, store, progress)

    def score() -> list[dict[str, float]]:
        image, text = _heads(config, made)
        images, texts, owners = _everything(cached)
        device = device_of(config.place)
        with torch.inference_mode():
            return [
                retrieval_scores(
                    embed(Head(*(part[student] for part in image)), images.to(device)),
                    embed(Head(*(part[student] for part in text)), texts.to(device)),
                    owners.to(device),
                )
                for student in range(config.evaluate.seeds)
            ]

    return _kept(config, store, made, {"row": "unseen", "features": cached.fingerprint}, score)


def _heads(config: Config, made: MadeSet) -> tuple[Head, Head]:
    return trained_students(config, synthetic_pairs(made.synthetic), range(config.evaluate.seeds))


def _moved(config: Config, store: Store, made: MadeSet, photographs: bool) -> SyntheticSet:
    """The set as the config's encoders see it."""
    moved = made.synthetic
    if config.encoders.image != made.image_encoder or photographs:
        encoder = load_image_encoder(config.encoders, device_of(config.place))
        if photographs:
            train = load_pairs(config, store).train
            pixels = open_pixels([train.images[index] for index in moved.start_images.tolist()], encoder.size)
        elif moved.pixels is not None:
            pixels = moved.pixels
        else:
            raise RecordError(
                "The set holds image features alone, which no other encoder can read. "
                "Score one that was made with distill.space pixels or features-then-pixels."
            )
        moved = replace(moved, image_features=_encoded(config, encoder.module, encoder.size, pixels), pixels=pixels)
    if config.encoders.text != made.text_encoder:
        encoder = load_text_encoder(config.encoders, device_of(config.place))
        moved = replace(moved, text_features=encoder.encode(made.captions).float().cpu())
    return moved


def _encoded(config: Config, module: Callable[[Tensor], Tensor], size: int, pixels: Tensor) -> Float[Tensor, "N d"]:
    device, parts = device_of(config.place), []
    for part in pixels.split(images_at_once(config.place, device)):
        with torch.no_grad():
            parts.append(module(resized(part.to(device).float() / 255, size)).float().cpu())
    return torch.cat(parts)


def _everything(
    cached: Features,
) -> tuple[Float[Tensor, "I d"], Float[Tensor, "C e"], Int[Tensor, "C"]]:
    """Features of all splits, one after the other: first views, captions, and whose they are."""
    images, texts, owners, before = [], [], [], 0
    for split in (cached.train, cached.val, cached.test):
        count = split.images.shape[0]
        images.append(split.images.gather(torch.arange(count), 0))
        texts.append(split.texts.whole().float())
        owners.append(split.image_of_text + before)
        before += count
    return torch.cat(images), torch.cat(texts), torch.cat(owners)


def _class_features(
    config: Config, store: Store, folder: Path, progress: Progress
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "KT e"], Int[Tensor, "n"], str]:
    """Features of labelled images and of the prompts of their classes, and what tells this folder from others."""
    found = read_classes(folder)
    digests = image_digests(found.images, str(folder.absolute()), store, progress)
    content = fingerprint(
        "class folders",
        VERSION,
        {"names": found.names, "files": list(zip((image.name for image in found.images), digests, strict=True))},
        {},
    )
    record = Record.of(store, "classes", {"folder": content, "encoders": _identities(config)}, {}, version=VERSION)
    if not record.complete:
        device = device_of(config.place)
        encoder, size = load_image_encoder(config.encoders, device), images_at_once(config.place, device)
        views, rows = ViewsOf(found.images, transform_of("none", encoder.size), 1, 0), []
        for batch in encode_views(encoder, views, batches_of(range(len(views)), size), device=device, workers=0):
            rows.append(batch[:, 0])
            progress("images of classes", sum(map(len, rows)), len(views))
        texts = load_text_encoder(config.encoders, device).encode(prompts(found.names)).half().cpu()
        record.write_tensors("features.safetensors", {"images": torch.cat(rows), "texts": texts})
        record.finish(facts={"classes": list(found.names), "images": len(views)})
    kept = record.read_tensors("features.safetensors")
    return kept["images"].float(), kept["texts"].float(), torch.tensor(found.labels), content


def _kept(
    config: Config, store: Store, made: MadeSet, settings: Mapping[str, Any], score: Callable[[], Sequence[Any]]
) -> list[dict[str, float]]:
    """The scores that the store has, or those that `score` makes, kept with what made them."""
    made_with = {
        **settings,
        "data": fingerprint("data", VERSION, asdict(config.data), {}),
        "split": config.evaluate.split,
        "choice": config.evaluate.choice,
        "seeds": config.evaluate.seeds,
        "students": asdict(config.students),
        "temperature": config.experts.temperature,
        "width": config.experts.width,
    }
    record = Record.of(store, "transfers", made_with, {"synthetic": made.fingerprint}, version=VERSION)
    if not record.complete:
        record.write_json(SCORES, list(score()))
        record.finish()
    return record.read_json(SCORES)


def _identities(config: Config) -> list[str]:
    return [image_identity(config.encoders), text_identity(config.encoders)]


def _encoders_of(config: Config) -> dict[str, Any]:
    return {f"encoders.{name}": value for name, value in asdict(config.encoders).items()}


def require_same_data(config: Config, store: Store, data: Mapping[str, str]) -> None:
    """Refuse to score a set on another data set than it was made from without being asked to.

    Raises:
        ConfigError: the config's data are others.
    """
    found = load_pairs(config, store)
    if found.fingerprint != data["fingerprint"]:
        raise ConfigError(
            f"The set was made from {data['name']} ({data['fingerprint']}), but data.* names {found.name} "
            f"({found.fingerprint}). Give the settings of its data, and the other ones as evaluate.unseen."
        )
