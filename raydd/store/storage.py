"""Files in a folder or a bucket, behind one small interface (pyarrow.fs): whole files, written atomically."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path, PurePosixPath

from pyarrow import fs

from raydd.errors import RecordError


class Store:
    """The root of all records: a local folder, or a bucket as `s3://bucket/prefix` or `gs://bucket/prefix`.

    Names are relative POSIX paths; one that would leave the root is refused.
    """

    def __init__(self, root: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None) -> None:
        """Open the store; a local folder is made on the first write.

        Args:
            root: a folder, or a URI that pyarrow.fs knows.
            cache: for a bucket, the folder of local copies that memory maps are taken from.
        """
        self.root = os.fspath(root)
        if "://" in self.root:
            self._files, self._base = fs.FileSystem.from_uri(self.root)
            self.folder: Path | None = Path(self._base) if isinstance(self._files, fs.LocalFileSystem) else None
        else:
            self.folder = Path(self.root).expanduser().absolute()
            self._files, self._base = fs.LocalFileSystem(), str(self.folder)
        self._cache = Path(cache) if cache else Path(tempfile.gettempdir()) / f"raydd-cache-{os.getuid()}"

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def exists(self, name: str) -> bool:
        """Whether a file of that name is there, whole."""
        return self._files.get_file_info(self._path(name)).type == fs.FileType.File

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            RecordError: it is not there.
        """
        try:
            with self._files.open_input_stream(self._path(name)) as stream:
                return stream.read()
        except FileNotFoundError as error:
            raise RecordError(
                f"{self.root}: there is no file {name}. Make the record that holds it again, or check the store's path."
            ) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that a reader sees all of it or nothing, whatever is killed meanwhile."""
        path = self._path(name)
        if self.folder is None:
            with self._files.open_output_stream(path) as stream:  # an object appears when its upload completes
                stream.write(content)
            return
        _write_atomically(Path(path), content)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_file(self._path(name))

    def local(self, name: str) -> Path:
        """A path on this machine that holds the file, to memory-map it: the file itself, or a copy of the object."""
        if self.folder is not None:
            path = Path(self._path(name))
            if not path.is_file():
                raise RecordError(f"{self.root}: there is no file {name}. Make the record that holds it again.")
            return path
        copy = self._cache / self._base.replace("/", "_") / name
        if not copy.is_file():
            _write_atomically(copy, self.read(name))
        return copy

    def names(self, folder: str) -> list[str]:
        """The names of all files under one folder of the store, sorted; empty if there is no such folder."""
        selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        infos = self._files.get_file_info(selector)
        start = len(self._base.rstrip("/")) + 1
        return sorted(info.path[start:] for info in infos if info.type == fs.FileType.File)

    def _path(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise RecordError(f"{name!r} is not a name inside the store {self.root}. Use a relative path without '..'.")
        return f"{self._base.rstrip('/')}/{'/'.join(parts)}"


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # the name is gone once the file was moved into place
