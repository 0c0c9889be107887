"""Writes files of this machine whole or not at all."""

import errno
import os
import secrets
from pathlib import Path

from raydd.errors import PlaceError

_FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing, even if the process is killed or the disk is full.

    Raises:
        PlaceError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in _FULL_DISK_ERRORS:
            raise
        raise PlaceError(
            f"{path.parent} has no room for {path.name} ({error.strerror}). Make room, and run the same command again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)  # does nothing once the file was moved into place
