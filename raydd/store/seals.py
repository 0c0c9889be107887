"""A file's checksum inside the file itself: SHA-256 over all of it, written into its header with the digest blank.

One object then holds content and checksum, so reading it takes one request, and no file can go with another's sum.
A safetensors file carries it in its metadata, a JSON file under its first key. A file without one was made elsewhere.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydd.errors import RecordError

KEY = "sha256"
_BLANK = "0" * 64
_SEAL = re.compile(rb'"sha256": ?"([0-9a-f]{64})"')
_LENGTH = 8  # bytes of a safetensors file that say how long its header is
_CHUNK = 1 << 22


def seal_tensors(content: bytes, notes: Mapping[str, str]) -> bytes:
    """A safetensors file with the seal, and notes, in its metadata."""
    length = int.from_bytes(content[:_LENGTH], "little")
    header = json.loads(content[_LENGTH : _LENGTH + length])
    text = json.dumps(
        {"__metadata__": {KEY: _BLANK, **notes}, **header}, separators=(",", ":"), ensure_ascii=False
    ).encode()
    text += b" " * (-len(text) % _LENGTH)  # tensors begin at a multiple of 8, as their makers have it
    return _filled(len(text).to_bytes(_LENGTH, "little") + text + content[_LENGTH + length :])


def seal_json(value: Mapping[str, Any]) -> bytes:
    """A mapping as indented JSON, the seal first."""
    return _filled(json.dumps({KEY: _BLANK, **value}, indent=1, ensure_ascii=False, allow_nan=False).encode())


def require_intact(content: bytes, where: str) -> None:
    """Refuse content that is not what was sealed.

    Raises:
        RecordError: naming the file.
    """
    seal = _find(content)
    if seal and _digest(content, seal).hexdigest().encode() != seal[1]:
        raise RecordError(_damaged(where))


def require_intact_file(path: Path, where: str) -> None:
    """As `require_intact`, for a file on this machine, read in pieces."""
    with path.open("rb") as file:
        first = file.read(_CHUNK)
        seal = _find(first)
        if seal is None:
            return
        digest = _digest(first, seal)
        while part := file.read(_CHUNK):
            digest.update(part)
    if digest.hexdigest().encode() != seal[1]:
        raise RecordError(_damaged(where))


def _find(content: bytes) -> re.Match[bytes] | None:
    """The seal in a file, or in its first piece."""
    if content[:1] == b"{":
        return _SEAL.search(content, 0, 128)
    if content[_LENGTH : _LENGTH + 1] != b"{":
        return None
    header = int.from_bytes(content[:_LENGTH], "little")
    return _SEAL.search(content, _LENGTH, min(len(content), _LENGTH + header))


def _filled(content: bytes) -> bytes:
    start = content.index(_BLANK.encode())
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:start] + digest + content[start + len(digest) :]


def _digest(content: bytes, seal: re.Match[bytes]) -> "hashlib._Hash":
    digest = hashlib.sha256(content[: seal.start(1)])
    digest.update(_BLANK.encode())
    digest.update(content[seal.end(1) :])
    return digest


def _damaged(where: str) -> str:
    return f"{where} is damaged: its content is not what was written. Delete it and make it again."
