"""Scores a synthetic set elsewhere: with other encoders, on classes, and on pairs of other data sets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from raydd.data.checking import image_digests
from raydd.data.class_folders import read_classes
from raydd.data.encoders import image_identity, text_identity
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import RecordError
from raydd.evaluate.retrieval import retrieval_scores
from raydd.evaluate.zero_shot import accuracies, class_directions, prompts
from raydd.protocols import Workbench
from raydd.stages.students import choice_content, fit_rates, recipe_content, score_students
from raydd.store import Record, fingerprint

# 2: named by the content of the data; students of both protocols; 3: fits that do not end at chance; 4: encoders are
# told apart by their weights
VERSION = 4
SCORES = "scores.json"


@dataclass(frozen=True)
class ScoredSet:
    """A synthetic set, with the facts about its making that scoring needs."""

    synthetic: SyntheticSet
    fingerprint: str
    image_encoder: str
    """Identity of the image encoder, see `raydd.data.encoders.image_identity`."""
    text_encoder: str
    """Identity of the text encoder."""
    captions: tuple[str, ...]
    """The real caption nearest to each text feature, which replaces it for another text encoder."""


def own_scores(work: Workbench[Any], scored_set: ScoredSet) -> list[dict[str, float]]:
    """Return scores of a set that other code made, with the encoders that it was made for, which the workbench has.

    For a set of raydd's, `raydd.stages.scores_of_set` returns the scores that its run may have stored.
    """
    return _cached_scores(work, scored_set, {"row": "own"}, lambda: _scores_by_seed(work, scored_set.synthetic))


def transferred_scores(
    work: Workbench[Any], scored_set: ScoredSet, *, photographs: bool = False
) -> list[dict[str, float]]:
    """Return scores of a set with the workbench's encoders, which may be other ones; learning rates are fitted on val.

    Args:
        work: the workbench with the encoders to score with.
        scored_set: the set. Its pixels are encoded for another image encoder. For another text encoder, each text is
            replaced by its nearest real caption.
        photographs: use the photographs that the pairs started from instead of the learned pixels.

    Raises:
        RecordError: the set has no pixels, and the image encoder is another one.
    """

    row = "photographs" if photographs else "pixels"
    students, count = f"students of {row}, {work.config.encoders.image}", work.config.evaluate.seeds

    def score() -> list[dict[str, float]]:
        work.progress(students, 0, count)
        encoded_set = _encode_set(work, scored_set, photographs)
        scores = _scores_by_seed(work, fit_rates(work, encoded_set, near=1.0).pairs)
        work.progress(students, count, count)
        return scores

    return _cached_scores(work, scored_set, {"row": row}, score)


def class_scores(work: Workbench[Any], scored_set: ScoredSet, folder: Path) -> list[dict[str, float]]:
    """Return ACC@1 and ACC@5 of the set's students on a folder of class folders, one dictionary per seed."""
    class_images = read_classes(folder)
    digests = image_digests(class_images.images, str(folder.absolute()), work.store, work.progress)
    files = [[image.name, digest] for image, digest in zip(class_images.images, digests, strict=True)]
    listing = {"names": class_images.names, "files": files}
    content_fingerprint = fingerprint("class folders", VERSION, listing, {})

    def score() -> list[dict[str, float]]:
        gallery, labels = work.gallery(class_images.images, content_fingerprint), torch.tensor(class_images.labels)
        prompt_features = work.text_encoder.encode(prompts(class_images.names)).half().cpu().float()
        return [
            accuracies(image_embeddings, class_directions(prompt_embeddings), labels)
            for students in _train_students(work, scored_set.synthetic)
            for image_embeddings, prompt_embeddings in zip(
                work.embed_images(students, gallery), work.embed_texts(students, prompt_features), strict=True
            )
        ]

    return _cached_scores(work, scored_set, {"row": "classes", "classes": content_fingerprint}, score, on_split=False)


def unseen_scores(work: Workbench[Any], scored_set: ScoredSet, unseen: Workbench[Any]) -> list[dict[str, float]]:
    """Return retrieval scores of the set's students on another data set, all splits joined; one dictionary per seed."""

    def score() -> list[dict[str, float]]:
        splits = [split for split in unseen.data.splits if len(split)]
        gallery = work.gallery([image for split in splits for image in split.images], unseen.data.fingerprint)
        captions = unseen.captions.train, unseen.captions.val, unseen.captions.test
        caption_splits = [split for split in captions if len(split.texts)]
        text_features = torch.cat([split.texts.whole().float() for split in caption_splits])
        image_offsets = torch.tensor([0, *map(len, splits)]).cumsum(0).tolist()
        image_of_text = torch.cat(
            [split.image_of_text + offset for split, offset in zip(caption_splits, image_offsets, strict=False)]
        )
        return [
            retrieval_scores(image_embeddings, text_embeddings, image_of_text)
            for students in _train_students(work, scored_set.synthetic)
            for image_embeddings, text_embeddings in zip(
                work.embed_images(students, gallery), work.embed_texts(students, text_features), strict=True
            )
        ]

    return _cached_scores(work, scored_set, {"row": "unseen", "pairs": unseen.data.fingerprint}, score, on_split=False)


def _train_students(work: Workbench[Any], pairs: SyntheticSet) -> Any:
    return work.train_students(pairs, range(work.config.evaluate.seeds))


def _scores_by_seed(work: Workbench[Any], pairs: SyntheticSet) -> list[dict[str, float]]:
    evaluate = work.config.evaluate
    return list(score_students(work, pairs, split=evaluate.split, seeds=range(evaluate.seeds)).seeds)


def _encode_set(work: Workbench[Any], scored_set: ScoredSet, photographs: bool) -> SyntheticSet:
    """Return the set with features of the workbench's encoders."""
    encoded_set, encoders = scored_set.synthetic, work.config.encoders
    has_its_image_encoder = image_identity(encoders) == scored_set.image_encoder
    if photographs or not has_its_image_encoder:
        pixels = work.start_pixels(encoded_set) if photographs else encoded_set.pixels
        if pixels is None:
            raise RecordError(
                "The set holds only image features, which no other encoder can read. "
                "Score a set that was made with distill.images pixels or features-then-pixels."
            )
        centre = encoded_set.image_centre if has_its_image_encoder else None
        features, pixels = work.encode_pixels(pixels), work.resized_pixels(pixels)
        encoded_set = replace(encoded_set, image_features=features, pixels=pixels, image_centre=centre)
    if text_identity(encoders) != scored_set.text_encoder:
        encoded_set = replace(encoded_set, text_features=work.text_encoder.encode(scored_set.captions).float().cpu())
    return encoded_set


def _cached_scores(
    work: Workbench[Any],
    scored_set: ScoredSet,
    settings: Mapping[str, Any],
    score: Callable[[], Sequence[Any]],
    *,
    on_split: bool = True,
) -> list[dict[str, float]]:
    """Return scores from the store, or compute them by `score` and store them with what made them.

    `on_split` says whether the scores are on `evaluate.split` of the workbench's own data.
    """
    config = work.config
    record_settings = {
        **settings,
        **work.student_content,
        "encoders": [image_identity(config.encoders), text_identity(config.encoders)],
        "seeds": config.evaluate.seeds,
        "students": recipe_content(config.students, len(scored_set.synthetic)),
    }
    if on_split:
        record_settings |= {"data": work.data.fingerprint, "split": config.evaluate.split}
        record_settings |= choice_content(config)
    record = Record.of(work.store, "transfers", record_settings, {"synthetic": scored_set.fingerprint}, version=VERSION)
    if not record.complete:
        record.write_json(SCORES, list(score()))
        record.finish()
    return record.read_json(SCORES)
