"""The cache: this machine's copies of a bucket's files, and notes on which files were checked.

Only files that never change are kept. One process fetches a file while other processes that need it wait. A copy
appears whole, and all processes of the machine map the same copy. When the folder is too large, the copies that were
not requested for the longest time are deleted; a process that has mapped such a copy can still read it.

A note says which version of a file was checked, so that a file is read through once for all processes. A version is the
file's size, modification time, change time, inode, and expected content. Programs can set back the modification time,
but not the change time, so a changed file is checked again. The modification time of a copy's note is the time of the
last request for the copy.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from raydd.store.files import write_whole

GRACE_SECONDS = 60.0  # a copy requested within this time is never deleted: its reader may be about to open it
_LOCK_COUNT = 64
_TICKS_NS = 20_000_000


class Cache:
    """Local copies and notes on checked files, in one folder."""

    def __init__(self, folder: Path, most_bytes: int, grace: float = GRACE_SECONDS) -> None:
        """Use a folder, which is created for the first copy.

        Args:
            folder: a folder that holds only copies and notes.
            most_bytes: maximum size of the copies, except those requested in the last `grace` seconds.
            grace: seconds for which a requested copy is not deleted.
        """
        self._folder, self._most_bytes, self._grace = folder, most_bytes, grace

    def path(
        self, name: str, fetch: Callable[[], bytes], is_intact: Callable[[Path], bool], expected: str = ""
    ) -> Path:
        """Return the copy of a file, after fetching it if it is missing or no longer intact.

        Args:
            name: name of the file.
            fetch: returns the file's content, checked.
            is_intact: whether a copy without a note is still what was fetched; reads the whole copy.
            expected: what `fetch` and `is_intact` check, see `version_of`.
        """
        path = self._copy_path(name)
        if not self._record_request(name, expected):
            with self._locked(name):
                if not self._record_request(name, expected):  # not fetched by another process meanwhile
                    version = version_of(path, expected)
                    if not version or not is_intact(path):
                        write_whole(path, fetch())
                        version = version_of(path, expected)
                    self.note(name, version)
                    self._shrink()
        return path

    def has(self, name: str) -> bool:
        """Return whether there is a copy."""
        return self._copy_path(name).is_file()

    def drop(self, name: str) -> None:
        """Delete a copy and its note, if they exist."""
        self._copy_path(name).unlink(missing_ok=True)
        self._note_path(name).unlink(missing_ok=True)

    def knows(self, name: str, version: str) -> bool:
        """Return whether a process of this machine has noted that this version of a file was checked."""
        try:
            return self._note_path(name).read_text() == version
        except FileNotFoundError:
            return False

    def note(self, name: str, version: str) -> None:
        """Note for all processes of this machine that this version of a file was checked."""
        write_whole(self._note_path(name), version.encode())

    def _copy_path(self, name: str) -> Path:
        return self._folder / "files" / name

    def _note_path(self, name: str) -> Path:
        return self._folder / "checked" / name

    def _record_request(self, name: str, expected: str) -> bool:
        """Return whether a checked copy exists; if so, record this request for it."""
        version = version_of(self._copy_path(name), expected)
        if not version or not self.knows(name, version):
            return False
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile: opening the copy raises an error
            os.utime(self._note_path(name))
        return self.has(name)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        lock_number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") % _LOCK_COUNT
        locks = self._folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{lock_number:02}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _shrink(self) -> None:
        copies, files = [], self._folder / "files"
        for path in files.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # deleted by another process meanwhile
                if path.is_file():
                    name, state = path.relative_to(files).as_posix(), path.stat()
                    copies.append((self._last_request_time(name, state.st_mtime), state.st_size, name))
        total_bytes, safe_from = sum(size for _, size, _ in copies), time.time() - self._grace
        for last_asked, size, name in sorted(copies):
            if total_bytes <= self._most_bytes or last_asked > safe_from:
                return
            self.drop(name)
            total_bytes -= size

    def _last_request_time(self, name: str, fetch_time: float) -> float:
        try:
            return self._note_path(name).stat().st_mtime
        except FileNotFoundError:
            return fetch_time


def version_of(path: Path, expected: str = "") -> str:
    """Return a text that identifies this state of a file and what was expected of it; "" if there is no such file."""
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino} {expected}"


def is_settled(path: Path) -> bool:
    """Return whether a file's last change is so old that another change would show in its times.

    Times of files advance in ticks of up to 10 ms, so two changes within one tick look the same.
    """
    state = path.stat()
    return abs(time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns)) > _TICKS_NS
