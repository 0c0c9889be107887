"""Lists the shards of a feature record, and writes those that are missing.

Letters: C captions, V views, D feature width.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Int
from safetensors import safe_open
from torch import Tensor

from raydd.config import Config, FeaturesConfig
from raydd.data.augment import transform_of
from raydd.data.encoders import ImageEncoder, TextEncoder
from raydd.data.encoding import (
    ViewsOf,
    batches_of,
    captions_at_once,
    encode_captions,
    encode_views,
    images_at_once,
    workers_for,
)
from raydd.data.feature_rows import CaptionRows, map_shard
from raydd.data.listing import SPLITS, Split
from raydd.data.pairs import DataSet
from raydd.device import device_of
from raydd.errors import RecordError
from raydd.progress import Progress, silent
from raydd.store import Record

_IMAGES_PER_SHARD = 512
_CAPTIONS_PER_SHARD = 16384


@dataclass(frozen=True)
class Shard:
    """One file of a record: a range of images or captions of a split."""

    split: Split
    kind: str
    """`images` or `texts`; also the name of the tensor of features in the file."""
    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        """Number of images or captions in the shard."""
        return self.stop - self.start

    @property
    def file(self) -> str:
        """Name of the file inside the record."""
        return f"{self.split}/{self.kind}-{self.number:05}.safetensors"


def image_shards(split: Split, images: int) -> list[Shard]:
    """Return the shards of a split's images."""
    return _cut_shards(split, "images", images, _IMAGES_PER_SHARD)


def text_shards(split: Split, captions: int) -> list[Shard]:
    """Return the shards of a split's captions."""
    return _cut_shards(split, "texts", captions, _CAPTIONS_PER_SHARD)


def views_in(split: Split, config: FeaturesConfig) -> int:
    """Number of views of each image: K for train, 1 (not augmented) for val, test, and train without augmentation."""
    return config.views if split == "train" and config.augment != "none" else 1


def shards_of(data: DataSet) -> list[Shard]:
    """Return the shards of a data set, images first."""
    splits = list(zip(SPLITS, data.splits, strict=True))
    images = [shard for split, pairs in splits for shard in image_shards(split, len(pairs))]
    return images + [shard for split, pairs in splits for shard in text_shards(split, len(pairs.captions))]


def write_images(
    config: Config,
    data: DataSet,
    record: Record,
    load_encoder: Callable[[], ImageEncoder],
    progress: Progress = silent,
    *,
    splits: Sequence[Split],
    only: Collection[str] = (),
) -> None:
    """Write the image shards of some splits that are missing from the record.

    If `only` names files, other shards are not touched. Progress is reported in views. The encoder is loaded only if
    there is something to write.
    """
    view_counts = {split: views_in(split, config.features) for split in splits}
    by_split = dict(zip(SPLITS, data.splits, strict=True))
    shards = [shard for split in splits for shard in image_shards(split, len(by_split[split]))]
    shards = [shard for shard in shards if not only or shard.file in only]
    missing = [
        shard for shard in shards if not _is_written(record, shard, (len(shard), view_counts[shard.split], None))
    ]
    total = sum(len(shard) * view_counts[shard.split] for shard in shards)
    done = total - sum(len(shard) * view_counts[shard.split] for shard in missing)
    label = "views encoded" if "train" in splits else "held-out images encoded"
    progress(label, done, total)
    if not missing:
        return
    encoder, device = load_encoder(), device_of(config.place)
    for split in splits:
        split_shards = [shard for shard in missing if shard.split == split]
        augment = config.features.augment if split == "train" else "none"
        dataset = ViewsOf(
            by_split[split].images, transform_of(augment, encoder.size), view_counts[split], config.features.seed
        )
        batch_size = images_at_once(device, view_counts[split], config.place.encode_batch)
        batches = [batches_of(range(shard.start, shard.stop), batch_size) for shard in split_shards]
        features = encode_views(encoder, dataset, _flatten_batches(batches), device=device, workers=workers_for(device))
        for shard, count in zip(split_shards, map(len, batches), strict=True):
            shard_features = []
            for batch_features in islice(features, count):
                shard_features.append(batch_features)
                done += len(batch_features) * view_counts[split]
                progress(label, done, total)
            _write_shard(record, shard, {"images": torch.cat(shard_features)})


def write_texts(
    config: Config,
    data: DataSet,
    record: Record,
    load_encoder: Callable[[], TextEncoder],
    progress: Progress = silent,
    *,
    only: Collection[str] = (),
) -> None:
    """Encode and write the captions that are missing from a record.

    `only` is as in `write_images`. A batch holds captions of similar length. Progress is reported in captions.
    """
    by_split = dict(zip(SPLITS, data.splits, strict=True))
    shards = [shard for shard in shards_of(data) if shard.kind == "texts" and (not only or shard.file in only)]
    missing = [shard for shard in shards if not _is_written(record, shard, (len(shard), None))]
    total = sum(map(len, shards))
    done = total - sum(map(len, missing))
    progress("captions encoded", done, total)
    if not missing:
        return
    encoder, device = load_encoder(), device_of(config.place)
    for shard in missing:
        pairs = by_split[shard.split]
        captions = pairs.captions[shard.start : shard.stop]
        by_length = sorted(range(len(captions)), key=lambda index: len(captions[index]))
        batches = batches_of(by_length, captions_at_once(device))
        features = encode_captions(encoder, captions, batches, device=device, workers=workers_for(device))
        # Filled in place, so that the shard is in memory only once.
        texts = torch.empty(len(captions), encoder.width, dtype=torch.float16)
        for batch, batch_features in zip(batches, features, strict=True):
            texts[batch] = batch_features
            done += len(batch_features)
            progress("captions encoded", done, total)
        image_of_text = torch.from_numpy(pairs.image_of_caption[shard.start : shard.stop].copy())
        _write_shard(record, shard, {"texts": texts, "image_of_text": image_of_text})


def read_texts(
    record: Record, split: Split, captions: int, width: int | None = None
) -> tuple[CaptionRows, Int[Tensor, "C"]]:
    """Return a split's caption features, memory-mapped, and the index of each caption's image.

    Args:
        record: a record with all shards of the split's captions.
        split: the split.
        captions: the split's number of captions C.
        width: the required width of the features; None allows any.

    Raises:
        RecordError: a shard is missing, damaged, or has another shape.
    """
    shards = text_shards(split, captions)
    rows, image_of_text = [], []
    for shard in shards:
        path = record.local(shard.file)
        rows.append(map_shard(path, "texts", (len(shard), width)))
        with safe_open(path, framework="pt") as file:  # map_shard has checked that the file is whole
            image_of_text.append(file.get_tensor("image_of_text"))
    return CaptionRows(tuple(rows), per_shard=len(rows[0])), torch.cat(image_of_text)


def require_complete(record: Record) -> None:
    """Raise an error if a record of features or of captions has no manifest.

    Raises:
        RecordError: the record is not complete.
    """
    if not record.complete:
        raise RecordError(f"{record.folder} is not complete. Run `raydd features` with the same settings.")


def _cut_shards(split: Split, kind: str, count: int, size: int) -> list[Shard]:
    starts = range(0, count, size)
    return [Shard(split, kind, number, start, min(start + size, count)) for number, start in enumerate(starts)]


def _is_written(record: Record, shard: Shard, shape: Sequence[int | None]) -> bool:
    """Return whether the shard exists and is whole. A damaged shard of an unfinished record is deleted."""
    if not record.has(shard.file):
        return False
    try:
        map_shard(record.local(shard.file), shard.kind, shape)
    except RecordError:
        record.remove(shard.file)
        return False
    return True


def _write_shard(record: Record, shard: Shard, tensors: dict[str, Tensor]) -> None:
    # Keep a shard that another process wrote: its last bits may differ, and the manifest may already hold its checksum.
    if not record.has(shard.file):
        record.write_tensors(shard.file, tensors)


def _flatten_batches(batches: Sequence[Sequence[Sequence[int]]]) -> list[Sequence[int]]:
    return [batch for group in batches for batch in group]
