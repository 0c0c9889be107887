"""This machine's copies of a bucket's files, and its notes on which files it has checked.

Only files that never change are kept. One process fetches a file while the others that want it wait; a copy appears
whole, and all processes of the machine map the same one. When the folder is too large, the copies that were asked for
the longest time ago are deleted; a process that has one mapped keeps it.

A note says which version of a file was checked, so that each file is read through once for all processes. A version is
the file's size, modification time, change time, inode, and what was expected of it. Programs can set back the
modification time, not the change time, so a changed file is checked again. For a copy, the note's own modification
time says when the copy was last asked for.
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
_TICKS_NS = 20_000_000


class Cache:
    """Local copies, and notes on checked files, under one folder."""

    def __init__(self, folder: Path, most_bytes: int, grace: float = GRACE_SECONDS) -> None:
        """Use a folder, which is made when the first copy is kept.

        Args:
            folder: for copies and notes alone.
            most_bytes: size that is kept, copies of the last `grace` seconds not counted.
            grace: seconds for which a copy that was asked for is safe.
        """
        self._folder, self._most_bytes, self._grace = folder, most_bytes, grace

    def path(self, name: str, fetch: Callable[[], bytes], intact: Callable[[Path], bool], expected: str = "") -> Path:
        """The copy of a file, fetched if it is not there or no longer intact.

        Args:
            name: of the file.
            fetch: gives its content, checked.
            intact: whether a copy that no note knows is still what was fetched; reads it through.
            expected: what `fetch` and `intact` check, see `version_of`.
        """
        path = self._copy(name)
        if not self._asked_for(name, expected):
            with self._locked(name):
                if not self._asked_for(name, expected):  # not fetched by another process meanwhile
                    found = version_of(path, expected)
                    if not found or not intact(path):
                        write_whole(path, fetch())
                        found = version_of(path, expected)
                    self.note(name, found)
                    self._shrink()
        return path

    def has(self, name: str) -> bool:
        """Whether there is a copy."""
        return self._copy(name).is_file()

    def drop(self, name: str) -> None:
        """Delete a copy, if there is one, and the note on it."""
        self._copy(name).unlink(missing_ok=True)
        self._note(name).unlink(missing_ok=True)

    def knows(self, name: str, version: str) -> bool:
        """Whether a process of this machine noted that this version of a file was checked."""
        try:
            return self._note(name).read_text() == version
        except FileNotFoundError:
            return False

    def note(self, name: str, version: str) -> None:
        """Note for all processes of this machine that this version of a file was checked."""
        write_whole(self._note(name), version.encode())

    def _copy(self, name: str) -> Path:
        return self._folder / "files" / name

    def _note(self, name: str) -> Path:
        return self._folder / "checked" / name

    def _asked_for(self, name: str, expected: str) -> bool:
        """Whether a checked copy is there; if so it counts as asked for now."""
        version = version_of(self._copy(name), expected)
        if not version or not self.knows(name, version):
            return False
        with contextlib.suppress(FileNotFoundError):  # shrunk away meanwhile: whoever opens the copy is told
            os.utime(self._note(name))
        return self.has(name)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") % _LOCKS
        locks = self._folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{place:02}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _shrink(self) -> None:
        kept, files = [], self._folder / "files"
        for path in files.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # deleted by another process meanwhile
                if path.is_file():
                    name, state = path.relative_to(files).as_posix(), path.stat()
                    kept.append((self._last_asked(name, state.st_mtime), state.st_size, name))
        total, safe_from = sum(size for _, size, _ in kept), time.time() - self._grace
        for asked, size, name in sorted(kept):
            if total <= self._most_bytes or asked > safe_from:
                return
            self.drop(name)
            total -= size

    def _last_asked(self, name: str, fetched: float) -> float:
        try:
            return self._note(name).stat().st_mtime
        except FileNotFoundError:
            return fetched


def version_of(path: Path, expected: str = "") -> str:
    """What tells this state of a file from all others, and what was expected of it; empty if there is no such file."""
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino} {expected}"


def is_settled(path: Path) -> bool:
    """Whether a file's last change is so old that another one would show in its times.

    Times of files advance in ticks of up to 10 ms, so two changes within one tick look alike.
    """
    state = path.stat()
    return abs(time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns)) > _TICKS_NS
