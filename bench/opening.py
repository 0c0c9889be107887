"""Measures how a trial opens a large, made-up pairs record: `python -m bench.opening STORE CACHE LISTING`."""

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from bench.measuring import peak_memory
from raydd.config import DataConfig
from raydd.data import open_data
from raydd.data.image_paths import ImagePaths
from raydd.data.listing import Entry, Split
from raydd.data.pairs_record import Listed, write_pairs
from raydd.data.readers.tar_shards import TarImage
from raydd.store import Store

CONFIG = DataConfig(reader="webdataset", root="/made")
_PER_SHARD, _HELD_OUT = 10_000, 5_000
_CAPTIONS_READ = 99  # captions that a trial reads, one for each pair of its set


@dataclass(frozen=True)
class MadeEntries(Sequence[Entry]):
    """Made-up images in tar shards, in the layout of img2dataset, each with a caption as long as those of CC3M."""

    split: Split
    count: int

    def __len__(self) -> int:
        """The number of images."""
        return self.count

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        """Return one image or a slice of images, created on access."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self.count))]
        if not 0 <= index < self.count:
            raise IndexError(index)
        shard, position = divmod(index, _PER_SHARD)
        name = f"{self.split}/{shard:05}"
        image = TarImage(f"{shard:05}.tar/{index:09}.jpg", f"/made/{name}.tar", 20_480 * position, 19_000)
        return Entry(
            self.split, f"{name}/{index:09}", image, (f"photo number {index} of a quiet street after the rain",)
        )

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the images in order."""
        return (self[index] for index in range(self.count))


def write_made_pairs(count: int, folder: Path) -> str:
    """Write the pairs record of a made-up data set as `load_data` does, and return its name."""
    sizes: dict[Split, int] = {"train": count - 2 * _HELD_OUT, "val": _HELD_OUT, "test": _HELD_OUT}
    splits: dict[Split, MadeEntries] = {split: MadeEntries(split, size) for split, size in sizes.items()}
    return write_pairs(
        Store(folder, cache=folder.with_name("cache")),
        Listed("made", splits, (), (), f"made {count}"),
        ImagePaths.of(CONFIG),
    )


def main(folder: str, cache: str, listing: str) -> None:
    """Open the record, read what a trial reads, and print the seconds and how much this adds to the peak memory."""
    rng, peak_before, start_time = random.Random(0), peak_memory(), time.monotonic()
    data = open_data(listing, CONFIG, Store(folder, cache=cache))
    counts = [(len(pairs), len(pairs.captions), len(pairs.image_of_caption)) for pairs in data.splits]
    indices = [rng.randrange(counts[0][1]) for _ in range(_CAPTIONS_READ)]
    captions = [data.train.captions[index] for index in indices]
    images = [data.train.images[int(data.train.image_of_caption[index])] for index in indices]
    seconds = time.monotonic() - start_time
    assert captions[0].startswith(f"photo number {indices[0]} ")
    assert images[0].name.endswith(f"{indices[0]:09}.jpg")
    assert data.fingerprint
    print(json.dumps({"seconds": seconds, "peak MB": (peak_memory() - peak_before) / 1e6}))


if __name__ == "__main__":
    main(*sys.argv[1:])
