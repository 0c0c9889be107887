"""An image in a row of a Parquet file, read in blocks of rows: memory stays flat however large a row group is."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from raydd.data.images import file_stamp

BLOCK = 32  # rows read at a time
KEPT = 4  # blocks that stay in memory: threads that read ahead of each other find theirs


@dataclass(frozen=True, slots=True)
class ParquetImage:
    """The image bytes of one row. Reading rows in order streams the file once."""

    name: str
    path: str
    column: str
    """`image`, or `image.bytes` for a struct."""
    group: int
    """Index of the row group."""
    row: int
    """Index of the row in its group."""
    file_stamp: str = field(default="", compare=False, repr=False)
    """Stamp of the file when it was listed, so that its rows need not ask the disk; "" asks it."""

    def read(self) -> bytes:
        """The row's bytes."""
        try:
            content = _images_of(self.path, self.column, self.group, _version(self.path))[self.row]
        except pa.ArrowInvalid as error:
            raise OSError(f"damaged Parquet data: {error}") from error
        if content is None:
            raise FileNotFoundError(self.name)
        return content

    def stamp(self) -> str:
        """The file's stamp with column, row group and row; "" if there is no such file."""
        file = self.file_stamp or file_stamp(self.path)
        return f"{file} {self.column} {self.group} {self.row}" if file else ""


class _Images:
    """One column of one row group: forward in a stream, backward by starting again."""

    def __init__(self, path: str, column: str, group: int) -> None:
        self._path, self._column, self._group = path, column, group
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, pa.Array] = OrderedDict()
        self._stream: Iterator[tuple[int, pa.Array]] = iter(())
        self._next = -1  # the block that the stream gives next; none before the first request

    def __getitem__(self, row: int) -> bytes | None:
        block, place = divmod(row, BLOCK)
        with self._lock:
            if block not in self._kept:
                self._fetch(block)
            return self._kept[block][place].as_py()

    def _fetch(self, block: int) -> None:
        if not 0 <= self._next <= block:
            self._stream, self._next = _blocks(self._path, self._column, self._group), 0
        while self._next <= block:
            number, images = next(self._stream)
            self._kept[number] = images
            self._kept.move_to_end(number)
            self._next = number + 1
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)


def _blocks(path: str, column: str, group: int) -> Iterator[tuple[int, pa.Array]]:
    """The blocks of a column of a row group in order.

    No method: a stream that knew its `_Images` would make a circle, whose megabytes wait for the garbage collector.
    """
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        batches = file.iter_batches(BLOCK, row_groups=[group], columns=[column], use_threads=False)
        for number, batch in enumerate(batches):
            images = batch.column(0)
            yield number, images.field("bytes") if isinstance(images, pa.StructArray) else images


def _version(path: str) -> tuple[int, ...]:
    state = os.stat(path)  # noqa: PTH116, a Path costs more than the call
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


@lru_cache(maxsize=4)
def _images_of(path: str, column: str, group: int, version: tuple[int, ...]) -> _Images:  # noqa: ARG001
    # The version is part of the key: blocks of a file that was written anew must not serve its old images.
    return _Images(path, column, group)
