import gc
import random
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydd.data.readers import parquet_files
from raydd.data.readers.parquet_files import BLOCK, ParquetImage

ROWS = 7 * BLOCK + 5


@pytest.fixture
def sources(tmp_path: Path) -> list[ParquetImage]:
    """One row group of more blocks than are kept, in structs as Hugging Face has them."""
    images = pa.array([{"bytes": content(i), "path": ""} for i in range(ROWS)])
    pq.write_table(pa.table({"image": images}), tmp_path / "big.parquet")
    return [ParquetImage(str(i), str(tmp_path / "big.parquet"), "image.bytes", 0, i) for i in range(ROWS)]


def content(number: int) -> bytes:
    return str(number).encode() * 100


def test_rows_in_order(sources: list[ParquetImage]) -> None:
    assert [source.read() for source in sources] == [content(i) for i in range(ROWS)]


def test_rows_in_any_order(sources: list[ParquetImage]) -> None:
    for number in random.Random(0).sample(range(ROWS), 40):
        assert sources[number].read() == content(number)


def test_rows_by_many_threads(sources: list[ParquetImage]) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ParquetImage.read, sources)) == [content(i) for i in range(ROWS)]


def test_only_some_blocks_stay_in_memory(sources: list[ParquetImage]) -> None:
    parquet_files._open_images.cache_clear()
    for source in sources:
        source.read()
    images = parquet_files._open_images(
        sources[0].path, sources[0].column, 0, parquet_files._file_version(sources[0].path)
    )
    assert len(images._cached_blocks) == parquet_files.KEPT


def test_a_row_group_that_was_left_is_freed_without_the_garbage_collector(tmp_path: Path) -> None:
    path = tmp_path / "groups.parquet"
    pq.write_table(pa.table({"image": [content(i) for i in range(6 * BLOCK)]}), path, row_group_size=BLOCK)
    parquet_files._open_images.cache_clear()
    left = []
    gc.disable()
    try:
        for group in range(6):
            assert ParquetImage("0", str(path), "image", group, 0).read() == content(group * BLOCK)
            kept = parquet_files._open_images(str(path), "image", group, parquet_files._file_version(str(path)))
            left.append(weakref.ref(kept))
            del kept
        assert [images() is None for images in left] == [True, True, False, False, False, False]
    finally:
        gc.enable()


def test_a_file_that_was_written_anew_gives_its_new_images(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    for first in (0, 7):
        pq.write_table(pa.table({"image": [content(first + i) for i in range(4)]}), path)
        assert [ParquetImage("", str(path), "image", 0, row).read() for row in range(4)] == [
            content(first + i) for i in range(4)
        ]
