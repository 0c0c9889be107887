"""The memory in which a large data set is encoded by Ray workers: generated pictures, from their files to the shards.

    python tests/large_data.py tar 20000

makes 20,000 pairs in WebDataset shards (or `parquet`), encodes 4 views of each by 2 workers, and prints the most
memory that the driver and any worker held of their own, in MB: what is mapped from files is not counted.
"""

import io
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDE, PER_FILE, WORKERS, VIEWS = 48, 1000, 2, 4
Pair = tuple[str, bytes, str]


def write_pairs(kind: str, count: int, folder: Path) -> Path:
    """So many pictures of noise with a caption each, in files of a thousand."""
    folder.mkdir(parents=True)
    for start in range(0, count, PER_FILE):
        pairs = _pairs(range(start, min(start + PER_FILE, count)))
        path = folder / f"train-{start // PER_FILE:05}.{kind}"
        _write_tar(path, pairs) if kind == "tar" else _write_parquet(path, pairs)
    return folder


def _pairs(numbers: range) -> Iterator[Pair]:
    for number in numbers:
        content, pixels = io.BytesIO(), np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(content, "PNG")
        yield f"{number:06}", content.getvalue(), f"noise, number {number}"


def _write_tar(path: Path, pairs: Iterator[Pair]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, image, caption in pairs:
            for name, content in ((f"{key}.png", image), (f"{key}.txt", caption.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _write_parquet(path: Path, pairs: Iterator[Pair]) -> None:
    keys, images, captions = zip(*pairs, strict=True)
    pq.write_table(pa.table({"key": keys, "image": pa.array(images, pa.binary()), "caption": captions}), path)


def encode(kind: str, data: Path, home: Path) -> tuple[float, float]:
    """Encode a folder of pairs in this process and its workers; gives the peaks of both in MB."""
    import raydd
    from raydd.place import open_store
    from raydd.settings import load
    from trainables.features import make_features

    config = load(
        settings={
            "data.reader": "webdataset" if kind == "tar" else "parquet",
            "data.root": str(data),
            "encoders.image": "wide_encoders:image",
            "encoders.text": "wide_encoders:text",
            "features.views": VIEWS,
            "place.home": str(home),
            "place.threads": 1,
        }
    )
    with Peaks() as peaks:
        make_features(raydd.open(config), workers=WORKERS)
        features = raydd.open(config, open_store(config.place)).features
    assert features.train.images.shape[1:] == (VIEWS, 2304)
    return peaks.driver, peaks.worker


class Peaks:
    """The most memory of their own that this process and any of its Ray workers held inside the block, in MB."""

    def __init__(self) -> None:
        self.driver, self.worker = 0.0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peaks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        here = psutil.Process()
        while not self._over.wait(0.1):
            self.driver = max(self.driver, _own(here))
            self.worker = max([self.worker, *map(_own, here.children(recursive=True))])


def _own(process: psutil.Process) -> float:
    try:
        if process.pid != psutil.Process().pid and "ShardEncoder" not in " ".join(process.cmdline()):
            return 0.0
        memory = process.memory_info()
        return (memory.rss - memory.shared) / 1e6
    except psutil.Error:  # it has just ended
        return 0.0


if __name__ == "__main__":
    kind, count = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="large-") as folder:
        data = write_pairs(kind, count, Path(folder) / "data")
        began = time.monotonic()
        driver, worker = encode(kind, data, Path(folder) / "home")
        files, shards = (
            sum(path.stat().st_size for path in Path(folder).rglob(pattern)) / 1e6
            for pattern in (f"*.{kind}", "images-*.safetensors")
        )
        print(
            f"{kind}, {count} pairs ({files:.0f} MB) to {shards:.0f} MB of features "
            f"in {time.monotonic() - began:.0f} s: "
            f"driver {driver:.0f} MB, the largest of {WORKERS} workers {worker:.0f} MB"
        )
