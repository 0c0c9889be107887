"""The feature cache: what the frozen encoders make of a data set, one clean view of val and test, K of train.

A record of shards in half precision, written one by one, the manifest last: a killed run goes on at the next shard.
Captions have a record of their own (`raydd.data.texts`).

    SPLIT/images-00000.safetensors   images [512 V D]
    stats.safetensors                mean, standard deviation and range of the features over train

Letters: n images, C captions, V views, D feature width.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.config import Config
from raydd.data.encoders import image_identity, load_image_encoder
from raydd.data.feature_rows import CaptionRows, FeatureRows, map_shard, mean_and_std
from raydd.data.feature_shards import finish, image_shards, require_whole, views_in, write_images
from raydd.data.listing import SPLITS, Split
from raydd.data.pairs import DataSet
from raydd.data.texts import CaptionFeatures, encode_texts, texts_record
from raydd.place import device_of
from raydd.progress import Progress, silent
from raydd.store import Record, Store

VERSION = 2  # 2: captions in a record of their own
STATS = "stats.safetensors"


@dataclass(frozen=True)
class SplitFeatures:
    """Features of one split."""

    images: FeatureRows
    """Image features [n V D], memory-mapped."""
    texts: CaptionRows
    """Caption features [C D], memory-mapped."""
    image_of_text: Int[Tensor, "C"]
    """Index of each caption's image, ascending."""


@dataclass(frozen=True)
class Features:
    """The feature cache of a data set under two encoders."""

    train: SplitFeatures
    val: SplitFeatures
    test: SplitFeatures
    fingerprint: str
    image_width: int
    text_width: int
    image_spread: Float[Tensor, "2 D"]
    """Mean and standard deviation of each image feature over all views of train."""
    image_range: Float[Tensor, "2 D"]
    """Least and greatest value of each image feature over all views of train."""
    text_spread: Float[Tensor, "2 D"]
    """Mean and standard deviation of each text feature over train."""


def features_record(config: Config, data_fingerprint: str, store: Store) -> Record:
    """The place of the features of a data set under these settings."""
    views = views_in("train", config.features)
    texts = texts_record(config, data_fingerprint, store)
    settings = {
        "image": image_identity(config.encoders),
        "augment": config.features.augment,
        "views": views,
        "seed": config.features.seed if config.features.augment != "none" else 0,
    }
    upstream = {"pairs": data_fingerprint, "texts": texts.fingerprint}
    return Record.of(store, "features", settings, upstream, version=VERSION)


def encode_features(config: Config, data: DataSet, store: Store, progress: Progress = silent) -> Features:
    """Encode what the store lacks of a data set's images and captions, and open the result.

    Images are decoded once for all their views. Memory holds a shard and the workers' batches, whatever the size.

    Args:
        config: encoders, features and place are read.
        data: the pairs.
        store: where the record is.
        progress: told about image views and captions.

    Raises:
        ConfigError: there is no such encoder.
        DataError: weights cannot be had, or an image has become unreadable since it was checked.
        RecordError: a shard of the complete record is damaged.
    """
    record = features_record(config, data.fingerprint, store)
    if not record.complete:
        load_encoder = partial(load_image_encoder, config.encoders, device_of(config.place))
        write_images(config, data, record, load_encoder, progress)
        _finish(config, data, record)
    return open_features(record, encode_texts(config, data, store, progress))


def open_features(record: Record, texts: CaptionFeatures, *, verify: bool = False) -> Features:
    """Open a complete record; images stay on the disk until they are gathered.

    Args:
        record: of `features_record`.
        texts: the captions' features, which the record is named by too.
        verify: read every file and compare its SHA-256 with the manifest's, beside the sizes that are always checked.

    Raises:
        RecordError: the record is not complete, or a file of it is missing or damaged.
    """
    require_whole(record, verify=verify)
    facts = record.facts()
    stats = record.map_tensors(STATS)
    return Features(
        **{split: _open_split(record, split, facts, texts) for split in SPLITS},
        fingerprint=record.fingerprint,
        image_width=facts["image_width"],
        text_width=texts.width,
        image_spread=torch.stack([stats["image_mean"], stats["image_std"]]),
        image_range=torch.stack([stats["image_min"], stats["image_max"]]),
        text_spread=texts.spread,
    )


def _open_split(record: Record, split: Split, facts: dict[str, Any], texts: CaptionFeatures) -> SplitFeatures:
    size, captions = facts["splits"][split], {"train": texts.train, "val": texts.val, "test": texts.test}[split]
    image_shape = size["views"], facts["image_width"]
    images = [
        map_shard(record.local(shard.file), "images", (len(shard), *image_shape))
        for shard in image_shards(split, size["images"])
    ]
    rows = FeatureRows(tuple(images), per_shard=len(images[0]))
    return SplitFeatures(rows, captions.texts, captions.image_of_text)


def _finish(config: Config, data: DataSet, record: Record) -> None:
    """Write the statistics and the manifest."""
    by_split = dict(zip(SPLITS, data.splits, strict=True))
    images = {split: image_shards(split, len(pairs)) for split, pairs in by_split.items()}
    image_rows = [map_shard(record.local(shard.file), "images", (None, None, None)) for shard in images["train"]]
    image_mean, image_std = mean_and_std(rows.flatten(0, 1) for rows in image_rows)
    image_min = torch.stack([rows.flatten(0, 1).amin(0) for rows in image_rows]).amin(0).float()
    image_max = torch.stack([rows.flatten(0, 1).amax(0) for rows in image_rows]).amax(0).float()
    stats = {"image_mean": image_mean, "image_std": image_std, "image_min": image_min, "image_max": image_max}
    record.write_tensors(STATS, stats)
    names = [STATS, *(shard.file for shards in images.values() for shard in shards)]
    finish(
        record,
        names,
        {
            "data": data.name,
            "encoders": {"image": config.encoders.image, "text": config.encoders.text},
            "image_width": len(image_mean),
            "splits": {
                split: {"images": len(pairs), "views": views_in(split, config.features)}
                for split, pairs in by_split.items()
            },
        },
    )
