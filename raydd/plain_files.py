"""Safe reading of files that others wrote: a pipe may never answer, and a device such as /dev/zero never ends."""

import errno
import os
import stat
import tempfile
from pathlib import Path

from raydd.errors import ConfigError


def read_file(path: Path | str, most_bytes: int) -> bytes:
    """Return the content of a regular file, following links.

    Args:
        path: path of the file.
        most_bytes: a larger file is refused before it is read.

    Raises:
        OSError: the file is missing, cannot be read, is a folder, a pipe, a socket or a device, or is too large.
    """
    # open() would wait forever for a pipe to which nobody writes.
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        state = os.fstat(file.fileno())
        require_regular(state, path)
        if state.st_size > most_bytes:
            raise OSError(f"it has {state.st_size:,} bytes, over the limit of {most_bytes:,}")
        content = file.read(state.st_size + 1)
        content += file.read(most_bytes - len(content) + 1) if len(content) > state.st_size else b""
    if len(content) > most_bytes:  # files in /proc report a size of 0
        raise OSError(f"it has more bytes than the limit of {most_bytes:,}")
    return content


def expanded(path: str | Path, label: str) -> Path:
    """Return a path with `~` and `~USER` expanded.

    Args:
        path: as the user wrote it.
        label: the flag or setting that holds the path.

    Raises:
        ConfigError: there is no such user, or the user's home folder is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{label} is {str(path)!r}, but the home folder cannot be found. Set $HOME, or give an absolute path."
        ) from error


def require_regular(state: os.stat_result, path: Path | str) -> None:
    """Refuse a path that is not a regular file.

    Raises:
        IsADirectoryError: it is a folder.
        OSError: it is a pipe, a socket or a device.
    """
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(21, "it is a folder", str(path))
    if not stat.S_ISREG(state.st_mode):
        raise OSError("it is a pipe, a socket or a device, not a file")


def is_plain(path: Path, folder: Path) -> bool:
    """Whether a path is a regular file inside a folder, following links."""
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def require_writable(path: Path, label: str) -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    Args:
        path: the file to write; its folders may be missing.
        label: the flag or setting that names the file.

    Raises:
        ConfigError: the path is a folder, a file is in the place of one of its folders, or it cannot be written.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{label} {path} is a folder. Give the name of a file.")
        require_writable_folder(path.absolute().parent, label)
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(f"{label} {path} cannot be written (no permission). Give another file.")
    except OSError as error:
        raise ConfigError(
            f"{label} {path} cannot be written ({error.strerror or error}). Give another file."
        ) from error


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user may enter, if it does not exist, and return it.

    Raises:
        OSError: the folder cannot be made, is not a folder, or belongs to another user, who could change what is in it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to somebody else", str(folder))
    folder.chmod(0o700)
    return folder


def require_writable_folder(folder: Path, label: str) -> None:
    """Refuse a folder that cannot be written to, or cannot be made.

    Raises:
        ConfigError: as for `require_writable`.
    """
    existing = folder.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise ConfigError(f"{label}: {existing} is a file, not a folder. Give another path.")
        with tempfile.TemporaryFile(dir=existing):  # permissions alone do not show that a disk is mounted read-only
            pass
    except OSError as error:
        raise ConfigError(
            f"{label}: {existing} cannot be written ({error.strerror or error}). Give another path."
        ) from error
