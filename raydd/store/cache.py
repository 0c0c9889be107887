"""A node's copies of a bucket's files, to be mapped into memory by all its processes: fetched once, bounded in size.

Only files that never change are kept. One process fetches a file while the others that want it wait; a copy appears
whole. When the folder is too large, the copies that nobody asked for the longest go; who has one mapped keeps it. Of a
store in a folder it only keeps which files were checked, so that a node's processes need not each read all of them.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from raydd.store.files import write_whole

GRACE_SECONDS = 60.0  # a copy asked for so lately is never deleted: its reader may be about to open it
_LOCKS = 64


class Cache:
    """Local copies under one folder."""

    def __init__(self, folder: Path, most_bytes: int, grace: float = GRACE_SECONDS) -> None:
        """Use a folder, which is made when the first copy is kept.

        Args:
            folder: for copies alone.
            most_bytes: size that is kept, copies of the last `grace` seconds not counted.
            grace: seconds for which a copy that was asked for is safe.
        """
        self._folder, self._most_bytes, self._grace = folder, most_bytes, grace

    def path(self, name: str, fetch: Callable[[], bytes]) -> Path:
        """The copy of a file, fetched if it is not there."""
        path = self._folder / "files" / name
        if not _touched(path):
            with self._locked(name):
                if not _touched(path):  # not fetched by another process meanwhile
                    write_whole(path, fetch())
                    self._shrink()
        return path

    def has(self, name: str) -> bool:
        """Whether there is a copy."""
        return (self._folder / "files" / name).is_file()

    def drop(self, name: str) -> None:
        """Delete a copy, if there is one."""
        (self._folder / "files" / name).unlink(missing_ok=True)

    def knows(self, name: str, size: int, changed: int) -> bool:
        """Whether a process of this machine noted that this version of a file was checked."""
        try:
            return self._note(name).read_text() == f"{size} {changed}"
        except FileNotFoundError:
            return False

    def note(self, name: str, size: int, changed: int) -> None:
        """Note for all processes of this machine that this version of a file was checked."""
        write_whole(self._note(name), f"{size} {changed}".encode())

    def _note(self, name: str) -> Path:
        return self._folder / "checked" / name

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") % _LOCKS
        locks = self._folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{place:02}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _shrink(self) -> None:
        kept = []
        for path in (self._folder / "files").rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # deleted by another process meanwhile
                if path.is_file():
                    state = path.stat()
                    kept.append((state.st_atime, state.st_size, path))
        total, safe_from = sum(size for _, size, _ in kept), time.time() - self._grace
        for asked, size, path in sorted(kept):
            if total <= self._most_bytes or asked > safe_from:
                return
            path.unlink(missing_ok=True)
            total -= size


def _touched(path: Path) -> bool:
    """Whether the file is there; if so it counts as asked for now."""
    try:
        os.utime(path, (time.time(), path.stat().st_mtime))
    except FileNotFoundError:
        return False
    return True
