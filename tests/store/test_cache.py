"""A node's copies: the least asked for go, none that was asked for lately, and whoever has one mapped keeps it."""

import mmap
import os
import time
from pathlib import Path

import pytest

from raydd.store.cache import Cache


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, path.stat().st_mtime))


def test_the_folder_stays_within_its_bound(tmp_path: Path):
    cache = Cache(tmp_path, most_bytes=250)
    for name in ("a", "b"):
        cache.path(name, lambda: bytes(100))
    age(tmp_path / "files/a", 300)
    cache.path("a", lambda: pytest.fail("it is there"))  # asked for again: now b is the oldest
    with (tmp_path / "files/b").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        age(tmp_path / "files/b", 200)
        cache.path("c", lambda: bytes(100))
        assert [cache.has(name) for name in "abc"] == [True, False, True]
        assert mapped[:] == bytes(100)


def test_what_was_asked_for_lately_stays_whatever_the_bound(tmp_path: Path):
    cache = Cache(tmp_path, most_bytes=10)
    paths = [cache.path(name, lambda: bytes(100)) for name in ("a", "b", "c")]
    assert all(path.is_file() for path in paths)


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path):
    cache = Cache(tmp_path, most_bytes=1000)

    def fail() -> bytes:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        cache.path("a", fail)
    assert not cache.has("a")
    assert cache.path("a", lambda: b"x").read_bytes() == b"x"
