"""Caption features alone: what is cached of a data set where the image encoder is trained from pixels.

A record of the same shards that the feature cache has of captions (`raydd.data.features`).

Letters: C captions, e width of the text encoder.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.config import Config
from raydd.data.encoders import load_text_encoder, text_identity
from raydd.data.feature_rows import CaptionRows
from raydd.data.feature_shards import read_texts, write_texts
from raydd.data.features import mean_and_std
from raydd.data.listing import SPLITS
from raydd.data.pairs import DataSet
from raydd.place import device_of
from raydd.progress import Progress, silent
from raydd.store import Record, Store

VERSION = 1


@dataclass(frozen=True)
class Texts:
    """Caption features of one split."""

    texts: CaptionRows
    """Features [C e], memory-mapped."""
    image_of_text: Int[Tensor, "C"]
    """Index of each caption's image, ascending."""


@dataclass(frozen=True)
class CaptionFeatures:
    """Caption features of a data set under the frozen text encoder."""

    train: Texts
    val: Texts
    test: Texts
    fingerprint: str

    @cached_property
    def spread(self) -> Float[Tensor, "2 e"]:
        """Mean and standard deviation of each feature over train."""
        return torch.stack(mean_and_std(self.train.texts.shards))

    @property
    def width(self) -> int:
        """Width e of the text encoder."""
        return self.train.texts.width


def texts_record(config: Config, data_fingerprint: str, store: Store) -> Record:
    """The place of the caption features of a data set under these settings."""
    settings = {"text": text_identity(config.encoders)}
    return Record.of(store, "texts", settings, {"pairs": data_fingerprint}, version=VERSION)


def encode_texts(config: Config, data: DataSet, store: Store, progress: Progress = silent) -> CaptionFeatures:
    """Encode what the store lacks of a data set's captions, and open the result."""
    record = texts_record(config, data.fingerprint, store)
    if not record.complete:
        write_texts(
            config, data, record, partial(load_text_encoder, config.encoders, device_of(config.place)), progress
        )
        record.finish(facts={"data": data.name, "encoder": config.encoders.text})
    opened = {
        split: Texts(*read_texts(record, split, len(pairs.captions)))
        for split, pairs in zip(SPLITS, data.splits, strict=True)
    }
    return CaptionFeatures(**opened, fingerprint=record.fingerprint)
