"""Reads and writes whole files in a folder or a bucket, through one interface (pyarrow.fs). Writes are atomic."""

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pyarrow import fs

from raydd.errors import PlaceError, RecordError
from raydd.plain_files import expanded, private_folder
from raydd.store.cache import Cache, is_settled, version_of
from raydd.store.files import write_whole
from raydd.store.remote import PATIENCE_SECONDS, is_temporary, open_bucket, retrying
from raydd.store.seals import Fault, fault_of, pieces_of, require_intact, require_intact_file

log = logging.getLogger(__name__)
Result = TypeVar("Result")
CACHE_BYTES = 50 * 10**9
_LONGEST_CACHE_NAME = 200  # bytes; file systems allow 255 for one name


@dataclass(frozen=True)
class StoreEntry:
    """One entry of a listing: a file, or a folder if the store is a folder."""

    name: str
    bytes: int
    changed: float
    """Seconds since the epoch."""
    is_folder: bool = False


class Store:
    """The root of all records: a local folder, or a bucket as `s3://bucket/prefix` or `gs://bucket/prefix`.

    Names are relative POSIX paths; a name that would leave the root raises an error. Files are checked against their
    seal when they are read, see `raydd.store.seals`. Requests to a bucket that does not answer are repeated for some
    minutes. A seal must name the place that the file is read from; `place` names another one, for a record that was
    copied out of its store.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        cache: str | os.PathLike[str] | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Open the store; a local folder is created on the first write.

        Args:
            root: a folder, or a bucket's address, see `raydd.store.remote.open_bucket`.
            cache: folder for this machine's copies of a bucket's files, and for notes on a folder's files; by default a
                folder among the temporary files that only this user may enter.
            cache_bytes: maximum size of the copies.
            patience: seconds for which requests to a bucket that does not answer are repeated.

        Raises:
            ConfigError: the address is not valid.
            PlaceError: no `cache` is given, and the default one belongs to another user.
        """
        self.root, self._patience = os.fspath(root), patience
        if "://" in self.root and not self.root.startswith("file://"):
            self._files, self._base = open_bucket(self.root)
            self.folder: Path | None = None
        else:
            self.folder = expanded(self.root.removeprefix("file://"), "The store").absolute()
            self._files, self._base = fs.LocalFileSystem(), str(self.folder)
        self._cache_folder = (Path(cache) if cache else _default_cache()) / self._cache_name()
        self._cache = Cache(self._cache_folder, cache_bytes)
        self._checked_versions: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def _cache_name(self) -> str:
        name = self._base.strip("/").replace("/", "_")
        is_long = len(os.fsencode(name)) > _LONGEST_CACHE_NAME
        if is_long or self.folder is None:  # other services and local folders can have the same name
            return f"{name[-40:] if is_long else name}-{hashlib.sha256(self.root.encode()).hexdigest()[:8]}"
        return name

    def exists(self, name: str) -> bool:
        """Return whether a file of that name exists, whole.

        Raises:
            RecordError: a folder has that name.
        """
        path = self._path(name)
        if self.folder is None:
            return self._cache.has(name) or self._with_retries(name, lambda: self._is_object(path))
        if Path(path).is_dir():
            raise RecordError(self._folder_message(name))
        return Path(path).is_file()

    def read(self, name: str, *, place: str = "", sha256: str = "") -> bytes:
        """Return the content of a file.

        Args:
            name: name of the file.
            place: the place that the seal must name; empty for `name`.
            sha256: the checksum of the whole file, if a manifest lists it.

        Raises:
            RecordError: the file is missing, or is not what raydd wrote there.
        """
        content = self.content(name)
        require_intact(content, f"{self.root}/{name}", place or name, sha256)
        return content

    def content(self, name: str) -> bytes:
        """Return the content of a file, unchecked.

        Raises:
            RecordError: the file is missing.
        """
        path = self._path(name)
        return self._with_retries(name, lambda: self._read_object(path))

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that a reader sees all of it or nothing, even if a process is killed meanwhile."""
        path = self._path(name)
        if self.folder is None:
            self._with_retries(name, lambda: self._upload(path, content))
            self.forget(name)
            return
        try:
            write_whole(Path(path), content)
        except IsADirectoryError as error:
            raise RecordError(self._folder_message(name)) from error

    def forget(self, name: str) -> None:
        """Delete this machine's copy of a bucket's file, to read the file itself next time."""
        if self.folder is None:
            self._cache.drop(name)

    def remove(self, name: str) -> None:
        """Delete a file, if it exists."""
        path = self._path(name)

        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.delete_file(path)

        self.forget(name)
        self._with_retries(name, delete)

    def remove_folder(self, name: str) -> None:
        """Delete a folder and everything in it."""
        path = self._path(name)
        self._with_retries(name, lambda: self._files.delete_dir(path))

    def local(self, name: str, *, place: str = "", sha256: str = "") -> Path:
        """Return a path on this machine to memory-map a file that never changes: the file itself or the node's copy.

        Arguments and errors are those of `read`. The file is checked once for all processes of the machine, and again
        if it has changed since.
        """
        path, address, place = Path(self._path(name)), f"{self.root}/{name}", place or name
        expected = f"{place} {sha256}".strip()
        if self.folder is None:

            def is_intact(copy: Path) -> bool:
                fault = fault_of(pieces_of(copy), place, sha256)
                if fault:
                    log.warning("This machine's copy of %s %s. It is fetched again.", address, fault.reason)
                return fault is None

            return self._cache.path(name, lambda: self.read(name, place=place, sha256=sha256), is_intact, expected)
        if not self.exists(name):
            raise RecordError(self._missing_message(name))
        version = version_of(path, expected)
        if (name, version) in self._checked_versions:
            return path
        if not self._cache.knows(name, version):
            settled = is_settled(path)
            require_intact_file(path, address, place, sha256)
            if not settled:
                return path
            self._cache.note(name, version)
        self._checked_versions.add((name, version))
        return path

    def read_cached(self, name: str, *, place: str = "") -> bytes:
        """Return the content of a file that never changes; a bucket's file is read from this machine's copy.

        Arguments and errors are those of `read`.
        """
        return self.local(name, place=place).read_bytes() if self.folder is None else self.read(name, place=place)

    def fault(self, name: str, sha256: str = "") -> Fault | None:
        """Read a file through, regardless of earlier checks, and return what is wrong with it; None if nothing is.

        Raises:
            RecordError: the file is missing or is a folder.
        """
        if self.folder is None:
            return fault_of([self.content(name)], name, sha256)
        if not self.exists(name):
            raise RecordError(self._missing_message(name))
        return fault_of(pieces_of(Path(self._path(name))), name, sha256)

    def names(self, folder: str) -> list[str]:
        """Return the names of all files under one folder of the store, sorted; empty if there is no such folder."""
        return [item.name for item in self.listing(folder) if not item.is_folder]

    def listing(self, folder: str = "") -> list[StoreEntry]:
        """Return all files and folders under one folder of the store, or in the whole store, sorted by name."""
        selector = fs.FileSelector(self._path(folder) if folder else self._base, recursive=True, allow_not_found=True)
        infos = self._with_retries(folder, lambda: self._files.get_file_info(selector))
        prefix_length = len(self._base.rstrip("/")) + 1
        entries = [
            StoreEntry(
                info.path[prefix_length:],
                info.size or 0,
                info.mtime.timestamp() if info.mtime else 0.0,
                info.type == fs.FileType.Directory,
            )
            for info in infos
        ]
        return sorted(entries, key=lambda entry: entry.name)

    def machine_store(self) -> "Store":
        """Return a store for this machine only, in the cache folder, for facts about this machine's files.

        It may be deleted at any time, so only content that can be recreated belongs there.
        """
        return Store(self._cache_folder / "here", cache=self._cache_folder / "here-cache")

    def _read_object(self, path: str) -> bytes:
        with self._files.open_input_file(path) as file:  # one request for the whole file; a stream makes many
            return file.read()

    def _is_object(self, path: str) -> bool:
        try:
            self._files.open_input_file(path).close()  # one request; asking for its type would list a missing file
        except FileNotFoundError:
            return False
        return True

    def _upload(self, path: str, content: bytes) -> None:
        with self._files.open_output_stream(path) as stream:  # an object appears when its upload completes
            stream.write(content)

    def _with_retries(self, name: str, request: Callable[[], Result]) -> Result:
        """Make a request; for a bucket, repeat it during temporary trouble."""
        try:
            return request() if self.folder is not None else retrying(self._patience)(request)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RecordError(self._missing_message(name)) from error
        except OSError as error:
            if self.folder is not None:
                if name and Path(self._path(name)).is_dir():
                    raise RecordError(self._folder_message(name)) from error
                raise
            problem = "did not answer" if is_temporary(error) else "refused a request"
            raise PlaceError(
                f"The store {self.root} {problem} ({str(error)[:300]}). Check place.store, the network and the "
                "credentials."
            ) from error

    def _missing_message(self, name: str) -> str:
        return f"{self.root}: there is no file {name}. Make the record that holds it again, or check the store's path."

    def _folder_message(self, name: str) -> str:
        return f"{self.root}/{name} is a folder where a file belongs. Move it away, and run the same command again."

    def _path(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise RecordError(f"{name!r} is not a name inside the store {self.root}. Use a relative path without '..'.")
        return f"{self._base.rstrip('/')}/{'/'.join(parts)}"


def _default_cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"raydd-cache-{os.getuid()}"
    try:
        return private_folder(folder)
    except OSError as error:
        raise PlaceError(
            f"{folder} cannot be the cache ({error.strerror}). Set TMPDIR to a folder of yours."
        ) from error
