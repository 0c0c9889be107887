"""A node's copies: the least asked for go, none that was asked for lately, and whoever has one mapped keeps it."""

import mmap
import os
import time
from pathlib import Path

import pytest

from raydd.store.cache import Cache


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def damaged(copy: Path) -> bool:
    return False


def test_the_folder_stays_within_its_bound(tmp_path: Path):
    cache = Cache(tmp_path, most_bytes=250)
    for name in ("a", "b"):
        cache.path(name, lambda: bytes(100), damaged)
    age(tmp_path / "checked/a", 300)
    cache.path("a", lambda: pytest.fail("it is there"), damaged)  # asked for again: now b is the oldest
    with (tmp_path / "files/b").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        age(tmp_path / "checked/b", 200)
        cache.path("c", lambda: bytes(100), damaged)
        assert [cache.has(name) for name in "abc"] == [True, False, True]
        assert mapped[:] == bytes(100)


def test_what_was_asked_for_lately_stays_whatever_the_bound(tmp_path: Path):
    cache = Cache(tmp_path, most_bytes=10)
    paths = [cache.path(name, lambda: bytes(100), damaged) for name in ("a", "b", "c")]
    assert all(path.is_file() for path in paths)


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path):
    cache = Cache(tmp_path, most_bytes=1000)

    def fail() -> bytes:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        cache.path("a", fail, damaged)
    assert not cache.has("a")
    assert cache.path("a", lambda: b"x", damaged).read_bytes() == b"x"


def test_a_copy_that_changed_is_checked_again_and_one_that_did_not_is_not(tmp_path: Path):
    cache, asked = Cache(tmp_path, most_bytes=1000), []

    def intact(copy: Path) -> bool:
        asked.append(copy.read_bytes())
        return asked[-1] == b"whole"

    path = cache.path("a", lambda: b"whole", intact)
    assert cache.path("a", lambda: pytest.fail("it is there"), intact) == path
    assert asked == []
    time.sleep(0.03)
    then = path.stat()
    path.write_bytes(b"whale")
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))  # same size, same modification time
    assert cache.path("a", lambda: b"whole", intact).read_bytes() == b"whole"
    assert asked == [b"whale"]


def test_a_copy_that_was_checked_against_something_else_is_checked_again(tmp_path: Path):
    cache, asked = Cache(tmp_path, most_bytes=1000), []
    cache.path("a", lambda: b"x", damaged, "stage/abc/a")
    cache.path("a", lambda: b"y", lambda copy: bool(asked.append(copy)) or True, "stage/abd/a")
    assert len(asked) == 1
