"""The feature cache: encoder features of a data set, one unaugmented view of val and test, and K views of train.

There are three records. The name of each depends only on what decides its content. So a change of the augmentation
does not encode val again, and a change of one encoder does not encode the other side again (captions:
`raydd.data.texts`). A record is written shard by shard in half precision, its manifest last: a killed run continues
with the next shard.

    train    train/images-00000.safetensors   images [512 V D]
             stats.safetensors                mean, standard deviation and range of the features
    held out val/images-00000.safetensors     images [512 1 D], and those of test

Letters: n images, C captions, V views, D feature width.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.config import Config
from raydd.data.encoders import image_identity, load_image_encoder
from raydd.data.feature_rows import CaptionRows, FeatureRows, map_shard, mean_and_std
from raydd.data.feature_shards import Shard, image_shards, require_complete, views_in, write_images
from raydd.data.listing import SPLITS, Split
from raydd.data.pairs import DataSet
from raydd.data.texts import CaptionFeatures, Texts, texts_record
from raydd.device import device_of
from raydd.progress import Progress, silent
from raydd.store import Record, Store, fingerprint

VERSION = 4  # 2: captions in a record of their own; 3: val and test too; 4: seals name the file's place
STATS = "stats.safetensors"
_HELD_OUT: tuple[Split, ...] = ("val", "test")


@dataclass(frozen=True)
class SplitFeatures:
    """Features of one split."""

    images: FeatureRows
    """Image features [n V D], memory-mapped."""
    texts: CaptionRows
    """Caption features [C D], memory-mapped."""
    image_of_text: Int[Tensor, "C"]
    """Index of each caption's image, ascending."""

    @property
    def nbytes(self) -> int:
        """Bytes of all features."""
        return sum(shard.nbytes for shard in (*self.images.shards, *self.texts.shards))

    def on(self, device: str) -> "SplitFeatures":
        """Copy the features to a device's memory, for training that gathers its minibatches there."""
        return SplitFeatures(self.images.on(device), self.texts.on(device), self.image_of_text.to(device))


@dataclass(frozen=True)
class HeldOut:
    """Features of val and test, which are all that is needed to score students."""

    val: SplitFeatures
    test: SplitFeatures


@dataclass(frozen=True)
class Features(HeldOut):
    """Features of a data set under two encoders."""

    train: SplitFeatures
    fingerprint: str
    """Identifies the features of train."""
    image_width: int
    text_width: int
    image_spread: Float[Tensor, "2 d"]
    """Mean and standard deviation of each image feature over all views of train."""
    image_range: Float[Tensor, "2 d"]
    """Minimum and maximum of each image feature over all views of train."""
    text_spread: Float[Tensor, "2 e"]
    """Mean and standard deviation of each text feature over train."""

    @property
    def image_mean(self) -> Float[Tensor, "d"]:
        """Mean of each image feature over all views of train."""
        return self.image_spread[0]

    def centred(self) -> "Features":
        """Return the features with those of training images minus their mean; val and test stay as they are."""
        images = replace(self.train.images, centre=self.image_mean)
        return replace(
            self,
            train=replace(self.train, images=images),
            image_spread=torch.stack([torch.zeros_like(self.image_mean), self.image_spread[1]]),
            image_range=self.image_range - self.image_mean,
        )


@dataclass(frozen=True)
class FeatureRecords:
    """The records of a data set's features."""

    train: Record
    """Features of the views of training images."""
    held_out: Record
    """Features of the images of val and test, which no augmentation changes."""
    texts: Record

    def of(self, shard: Shard) -> Record:
        """Return the record that a shard belongs to."""
        if shard.kind == "texts":
            return self.texts
        return self.train if shard.split == "train" else self.held_out

    @property
    def fingerprint(self) -> str:
        """Identifies the features of train."""
        upstream = {"images": self.train.fingerprint, "texts": self.texts.fingerprint}
        return fingerprint("features", VERSION, {}, upstream)

    @property
    def complete(self) -> bool:
        """Whether everything is encoded."""
        return self.train.complete and self.held_out.complete and self.texts.complete


def feature_records(config: Config, data_fingerprint: str, store: Store) -> FeatureRecords:
    """Return the records of a data set's features under the given settings."""
    image_encoder, upstream = image_identity(config.encoders), {"pairs": data_fingerprint}
    augmented = config.features.augment != "none"
    view_settings = {
        "augment": config.features.augment,
        "views": views_in("train", config.features),
        "seed": config.features.seed if augmented else 0,
    }
    return FeatureRecords(
        Record.of(store, "features", {"image": image_encoder, **view_settings}, upstream, version=VERSION),
        Record.of(store, "features", {"image": image_encoder, "held_out": True}, upstream, version=VERSION),
        texts_record(config, data_fingerprint, store),
    )


def encode_images(
    config: Config, data: DataSet, store: Store, progress: Progress = silent, *, held_out_only: bool = False
) -> FeatureRecords:
    """Encode the images of a data set whose features are missing from the store, and return the records.

    An image is decoded once for all its views. Memory holds one shard and the workers' batches, at any data size.

    Args:
        config: the settings, of which encoders, features and place are read.
        data: the pairs.
        store: where the records are.
        progress: called with the number of encoded views of training images, and of encoded held-out images.
        held_out_only: encode only val and test, for students that do not train on features of this data set.

    Raises:
        ConfigError: an encoder does not exist.
        DataError: weights cannot be obtained, or an image has become unreadable since it was checked.
    """
    records = feature_records(config, data.fingerprint, store)
    splits_of_record: list[tuple[Record, Sequence[Split]]] = [
        (records.train, ("train",)),
        (records.held_out, _HELD_OUT),
    ]
    load_encoder = functools.cache(lambda: load_image_encoder(config.encoders, device_of(config.place)))
    for record, splits in splits_of_record[held_out_only:]:
        if not record.complete:
            write_images(config, data, record, load_encoder, progress, splits=splits)
            _finish(config, data, record, splits)
    return records


def open_features(records: FeatureRecords, held_out: HeldOut, texts: CaptionFeatures) -> Features:
    """Open complete records. Image features stay on the disk until they are gathered.

    Args:
        records: from `feature_records`.
        held_out: from `open_held_out`.
        texts: the captions' features.

    Raises:
        RecordError: a record is not complete, or one of its files is missing or has another size.
    """
    require_complete(records.train)
    stats, facts = records.train.map_tensors(STATS), records.train.facts()
    return Features(
        val=held_out.val,
        test=held_out.test,
        train=_open_split(records.train, facts, "train", texts.train),
        fingerprint=records.fingerprint,
        image_width=facts["image_width"],
        text_width=texts.width,
        image_spread=torch.stack([stats["image_mean"], stats["image_std"]]),
        image_range=torch.stack([stats["image_min"], stats["image_max"]]),
        text_spread=texts.spread,
    )


def open_held_out(records: FeatureRecords, texts: CaptionFeatures) -> HeldOut:
    """Open the features of val and test. Arguments and errors are those of `open_features`."""
    require_complete(records.held_out)
    facts = records.held_out.facts()
    return HeldOut(
        val=_open_split(records.held_out, facts, "val", texts.val),
        test=_open_split(records.held_out, facts, "test", texts.test),
    )


def _open_split(record: Record, facts: Mapping[str, Any], split: Split, captions: Texts) -> SplitFeatures:
    counts, width = facts["splits"][split], facts["image_width"]
    shards = [
        map_shard(record.local(shard.file), "images", (len(shard), counts["views"], width))
        for shard in image_shards(split, counts["images"])
    ]
    rows = FeatureRows(tuple(shards), per_shard=len(shards[0]))
    return SplitFeatures(rows, captions.texts, captions.image_of_text)


def _finish(config: Config, data: DataSet, record: Record, splits: Sequence[Split]) -> None:
    """Write the statistics of train, and the manifest."""
    by_split = dict(zip(SPLITS, data.splits, strict=True))
    files = [shard.file for split in splits for shard in image_shards(split, len(by_split[split]))]
    shards = [map_shard(record.local(file), "images", (None, None, None)) for file in files]
    file_names = files
    if "train" in splits:
        mean, std = mean_and_std(shard.flatten(0, 1) for shard in shards)
        minimum = torch.stack([shard.flatten(0, 1).amin(0) for shard in shards]).amin(0).float()
        maximum = torch.stack([shard.flatten(0, 1).amax(0) for shard in shards]).amax(0).float()
        stats = {"image_mean": mean, "image_std": std, "image_min": minimum, "image_max": maximum}
        record.write_tensors(STATS, stats)
        file_names = [STATS, *files]
    facts: dict[str, Any] = {
        "data": data.name,
        "encoders": {"image": config.encoders.image},
        "image_width": shards[0].shape[-1],
        "splits": {
            split: {"images": len(by_split[split]), "views": views_in(split, config.features)} for split in splits
        },
    }
    record.finish(file_names, facts)
