"""Files that others wrote, read with care: a pipe never answers, and a device such as /dev/zero never ends."""

import os
import stat
from pathlib import Path

from raydd.errors import ConfigError


def read_file(path: Path | str, most_bytes: int) -> bytes:
    """The content of a regular file, links followed.

    Args:
        path: of the file.
        most_bytes: a larger file is refused before it is read.

    Raises:
        OSError: it is missing, cannot be read, is a folder, a pipe, a socket or a device, or is too large.
    """
    # A pipe that nobody writes to would let open() wait for ever.
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        state = os.fstat(file.fileno())
        require_regular(state, path)
        if state.st_size > most_bytes:
            raise OSError(f"it has {state.st_size:,} bytes, over the limit of {most_bytes:,}")
        content = file.read(state.st_size + 1)
        content += file.read(most_bytes - len(content) + 1) if len(content) > state.st_size else b""
    if len(content) > most_bytes:  # a file of /proc says that it is empty
        raise OSError(f"it has more bytes than the limit of {most_bytes:,}")
    return content


def expanded(path: str | Path, what: str) -> Path:
    """A path with `~` and `~USER` in it spelt out.

    Args:
        path: as the user wrote it.
        what: the flag or setting that names it.

    Raises:
        ConfigError: there is no such user, or nobody knows this one's home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{what} is {str(path)!r}, but the home folder cannot be found. Set $HOME, or give a whole path."
        ) from error


def require_regular(state: os.stat_result, path: Path | str) -> None:
    """Refuse what is no regular file.

    Raises:
        IsADirectoryError: it is a folder.
        OSError: it is a pipe, a socket or a device.
    """
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(21, "it is a folder", str(path))
    if not stat.S_ISREG(state.st_mode):
        raise OSError("it is a pipe, a socket or a device, and no file")


def is_plain(path: Path, inside: Path) -> bool:
    """Whether a path is a regular file that lies in a folder, links followed."""
    try:
        return path.is_file() and path.resolve().is_relative_to(inside.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def require_writable(path: Path, what: str) -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    Args:
        path: the file to come; its folders may be missing.
        what: the flag or setting that names it.

    Raises:
        ConfigError: a folder has that name, a file stands where a folder has to be, or nothing can be written there.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{what} {path} is a folder. Give the name of a file.")
        require_writable_folder(path.absolute().parent, what)
        if path.exists() and not os.access(path, os.W_OK):
            raise ConfigError(f"{what} {path} cannot be written (no permission). Give another file.")
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be written ({error.strerror or error}). Give another file.") from error


def require_writable_folder(folder: Path, what: str) -> None:
    """Refuse a folder that can be neither written to nor made.

    Raises:
        ConfigError: as `require_writable`.
    """
    there = folder.absolute()
    try:
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise ConfigError(f"{what}: {there} is a file and no folder. Give another place.")
        probe = there / f".raydd-{os.getpid()}"
        probe.touch()  # permissions alone do not tell of a disk that is mounted read-only
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"{what}: {there} cannot be written ({error.strerror or error}). Give another place."
        ) from error
