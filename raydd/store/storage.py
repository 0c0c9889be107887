"""Files in a folder or a bucket, behind one small interface (pyarrow.fs): whole files, written atomically."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pyarrow import fs

from raydd.errors import PlaceError, RecordError
from raydd.store.cache import Cache
from raydd.store.files import write_whole
from raydd.store.remote import PATIENCE_SECONDS, open_bucket, passes, patient
from raydd.store.seals import require_intact, require_intact_file

Result = TypeVar("Result")
CACHE_BYTES = 50 * 10**9
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Store:
    """The root of all records: a local folder, or a bucket as `s3://bucket/prefix` or `gs://bucket/prefix`.

    Names are relative POSIX paths; one that would leave the root is refused. What is read is checked against its seal,
    see `raydd.store.seals`, and a bucket that does not answer is asked again for some minutes.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        cache: str | os.PathLike[str] | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Open the store; a local folder is made on the first write.

        Args:
            root: a folder, or a bucket's address, see `raydd.store.remote.open_bucket`.
            cache: folder of this machine's copies of a bucket's files, and of what it knows of a folder's.
            cache_bytes: size of those copies.
            patience: seconds for which a bucket that does not answer is asked again.

        Raises:
            ConfigError: the address is not one.
        """
        self.root, self._patience = os.fspath(root), patience
        if "://" in self.root and not self.root.startswith("file://"):
            self._files, self._base = open_bucket(self.root)
            self.folder: Path | None = None
        else:
            self.folder = Path(self.root.removeprefix("file://")).expanduser().absolute()
            self._files, self._base = fs.LocalFileSystem(), str(self.folder)
        kept = Path(cache) if cache else Path(tempfile.gettempdir()) / f"raydd-cache-{os.getuid()}"
        self._kept = kept / self._base.strip("/").replace("/", "_")
        self._cache = Cache(self._kept, cache_bytes)
        self._checked: set[tuple[str, int, int]] = set()

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def exists(self, name: str) -> bool:
        """Whether a file of that name is there, whole."""
        path = self._path(name)
        if self.folder is not None:
            return Path(path).is_file()
        return self._cache.has(name) or self._ask(name, lambda: self._is_object(path))

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            RecordError: it is not there, or not what was written.
        """
        path = self._path(name)
        content = self._ask(name, lambda: self._content(path))
        require_intact(content, f"{self.root}/{name}")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that a reader sees all of it or nothing, whatever is killed meanwhile."""
        path = self._path(name)
        if self.folder is None:
            self._ask(name, lambda: self._upload(path, content))
            return
        try:
            write_whole(Path(path), content)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise PlaceError(
                f"{self.root} has no room for {name} ({error.strerror}). Make room, and give the same command again."
            ) from error

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        path = self._path(name)

        def delete() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.delete_file(path)

        if self.folder is None:
            self._cache.drop(name)
        self._ask(name, delete)

    def local(self, name: str) -> Path:
        """A path on this machine that holds a file which never changes, to memory-map it: itself, or a node's copy.

        Raises:
            RecordError: it is not there, or not what was written.
        """
        path = Path(self._path(name))
        if self.folder is None:
            return self._cache.path(name, lambda: self.read(name))
        if not path.is_file():
            raise RecordError(self._missing(name))
        state = path.stat()
        version = (name, state.st_size, state.st_mtime_ns)
        if version not in self._checked and not self._cache.knows(*version):
            require_intact_file(path, f"{self.root}/{name}")
            self._cache.note(*version)
        self._checked.add(version)
        return path

    def read_kept(self, name: str) -> bytes:
        """The content of a file which never changes, from this machine's copy if it has one.

        Raises:
            RecordError: it is not there, or not what was written.
        """
        return self.local(name).read_bytes() if self.folder is None else self.read(name)

    def exists_for_good(self, name: str) -> bool:
        """Whether a file which never changes is there; this machine keeps it, and need not ask a bucket again."""
        there = self.exists(name)
        if there and self.folder is None:
            self.local(name)
        return there

    def names(self, folder: str) -> list[str]:
        """The names of all files under one folder of the store, sorted; empty if there is no such folder."""
        selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        infos = self._ask(folder, lambda: self._files.get_file_info(selector))
        start = len(self._base.rstrip("/")) + 1
        return sorted(info.path[start:] for info in infos if info.type == fs.FileType.File)

    def here(self) -> "Store":
        """A store of this machine alone, in its cache folder, for what holds of this machine's files.

        It may be deleted at any time, so only what can be made again belongs there.
        """
        return Store(self._kept / "here", cache=self._kept / "here-cache")

    def _content(self, path: str) -> bytes:
        with self._files.open_input_file(path) as file:  # one request for all of it; a stream makes many
            return file.read()

    def _is_object(self, path: str) -> bool:
        try:
            self._files.open_input_file(path).close()  # one request; asking for its kind would list a missing one
        except FileNotFoundError:
            return False
        return True

    def _upload(self, path: str, content: bytes) -> None:
        with self._files.open_output_stream(path) as stream:  # an object appears when its upload completes
            stream.write(content)

    def _ask(self, name: str, request: Callable[[], Result]) -> Result:
        """Make a request, in a bucket again and again while the service is not well."""
        try:
            return request() if self.folder is not None else patient(self._patience)(request)
        except FileNotFoundError as error:
            raise RecordError(self._missing(name)) from error
        except OSError as error:
            if self.folder is not None:
                raise
            why = "did not answer" if passes(error) else "refused a request"
            raise PlaceError(
                f"The store {self.root} {why} ({str(error)[:300]}). Check place.store, the network and the credentials."
            ) from error

    def _missing(self, name: str) -> str:
        return f"{self.root}: there is no file {name}. Make the record that holds it again, or check the store's path."

    def _path(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise RecordError(f"{name!r} is not a name inside the store {self.root}. Use a relative path without '..'.")
        return f"{self._base.rstrip('/')}/{'/'.join(parts)}"
