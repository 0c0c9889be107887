"""Caption features: the frozen text encoder's features of a data set's captions, independent of the images.

They are a record of their own, so that a change of image encoder or augmentation does not encode captions again.

    SPLIT/texts-00000.safetensors    texts [16384 e], image_of_text [16384]
    stats.safetensors                mean and standard deviation of the features over train

Letters: C captions, e width of the text encoder.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.config import Config
from raydd.data.encoders import load_text_encoder, text_identity
from raydd.data.feature_rows import CaptionRows, mean_and_std
from raydd.data.feature_shards import read_texts, require_complete, text_shards, write_texts
from raydd.data.listing import SPLITS
from raydd.data.pairs import DataSet
from raydd.device import device_of
from raydd.progress import Progress, silent
from raydd.store import Record, Store

VERSION = 3  # 2: statistics in a file of their own; 3: seals name the file's place
STATS = "stats.safetensors"


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
    spread: Float[Tensor, "2 e"]
    """Mean and standard deviation of each feature over train."""

    @property
    def width(self) -> int:
        """Width e of the text encoder."""
        return self.train.texts.width


def texts_record(config: Config, data_fingerprint: str, store: Store) -> Record:
    """Return the record of a data set's caption features under the given settings."""
    settings = {"text": text_identity(config.encoders)}
    return Record.of(store, "texts", settings, {"pairs": data_fingerprint}, version=VERSION)


def encode_texts(config: Config, data: DataSet, store: Store, progress: Progress = silent) -> CaptionFeatures:
    """Encode the captions of a data set whose features are missing from the store, and open the result."""
    record = texts_record(config, data.fingerprint, store)
    if not record.complete:
        load_encoder = partial(load_text_encoder, config.encoders, device_of(config.place))
        write_texts(config, data, record, load_encoder, progress)
        _finish(config, data, record)
    return open_texts(record)


def open_texts(record: Record) -> CaptionFeatures:
    """Open a complete record. Caption features stay on the disk until they are gathered.

    Args:
        record: from `texts_record`.

    Raises:
        RecordError: the record is not complete, or one of its files is missing or has another size.
    """
    require_complete(record)
    facts, stats = record.facts(), record.map_tensors(STATS)
    split_features = {
        split: Texts(*read_texts(record, split, facts["captions"][split], facts["text_width"])) for split in SPLITS
    }
    spread = torch.stack([stats["text_mean"], stats["text_std"]])
    return CaptionFeatures(**split_features, fingerprint=record.fingerprint, spread=spread)


def _finish(config: Config, data: DataSet, record: Record) -> None:
    """Write the statistics and the manifest."""
    captions = {split: len(pairs.captions) for split, pairs in zip(SPLITS, data.splits, strict=True)}
    train, _ = read_texts(record, "train", captions["train"])
    mean, std = mean_and_std(train.shards)
    record.write_tensors(STATS, {"text_mean": mean, "text_std": std})
    names = [STATS, *(shard.file for split in SPLITS for shard in text_shards(split, captions[split]))]
    facts = {"data": data.name, "encoder": config.encoders.text, "text_width": len(mean), "captions": captions}
    record.finish(names, facts)
