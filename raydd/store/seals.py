"""A file's seal: its checksum and the place it belongs to, written into the file itself.

The checksum is the SHA-256 of the whole file with the digest left blank. So it covers the place too, and detects both a
changed file and a file that was moved to another name. A safetensors file carries its seal in its
metadata, a JSON file in its first two keys, so reading a sealed file takes one request. Other formats (Parquet, PNG)
have no room for a seal; the manifest of their record lists their SHA-256 instead, see `raydd.store.records`.

A seal detects accidents and mix-ups. It is not a signature: anyone who runs raydd's code can seal anything.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raydd.errors import RecordError

KEY, PLACE = "sha256", "place"
FaultKind = Literal["damaged", "foreign", "unsealed"]
_BLANK = "0" * 64
_SEAL = rb'"sha256": ?"([0-9a-f]{64})",\s*"place": ?"([^"\\]*)"'
_IN_JSON = re.compile(rb"\{\s*" + _SEAL)
_IN_TENSORS = re.compile(rb'.{8}\{"__metadata__":\{' + _SEAL, re.DOTALL)
_FORMATS = {".json": _IN_JSON, ".safetensors": _IN_TENSORS}
_DIGEST_TEXT = re.compile(rb'"[0-9a-f]{64}"')
_LENGTH_BYTES = 8  # bytes of a safetensors file that hold the length of its header
_CHUNK = 1 << 22
_HEAD_BYTES = 128  # bytes at a file's beginning that hold the digest


@dataclass(frozen=True)
class Fault:
    """Why a file is not the one that raydd wrote to its place."""

    kind: FaultKind
    reason: str
    """Text that follows the file's name in a sentence, such as `is damaged: …`."""


def sealable(name: str) -> bool:
    """Return whether a file of this name carries a seal: safetensors and JSON files do."""
    return Path(name).suffix in _FORMATS


def seal_tensors(content: bytes, notes: Mapping[str, str], place: str) -> bytes:
    """Return a safetensors file with its seal and notes in its metadata.

    Args:
        content: a safetensors file.
        notes: other entries of the metadata.
        place: the name that the file belongs to: `stage/fingerprint/file`.
    """
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    sealed_header = json.dumps(
        {"__metadata__": {KEY: _BLANK, PLACE: place, **notes}, **header}, separators=(",", ":"), ensure_ascii=False
    ).encode()
    # Tensors begin at a multiple of 8, as in files of the safetensors library.
    sealed_header += b" " * (-len(sealed_header) % _LENGTH_BYTES)
    return _fill_digest(
        len(sealed_header).to_bytes(_LENGTH_BYTES, "little") + sealed_header + content[_LENGTH_BYTES + length :]
    )


def seal_json(value: Mapping[str, Any], place: str) -> bytes:
    """Return a mapping as indented JSON with the seal first; `place` is as in `seal_tensors`.

    Raises:
        ValueError: the mapping has a key of the seal.
    """
    if KEY in value or PLACE in value:
        raise ValueError(f"{KEY!r} and {PLACE!r} are keys of the seal")
    sealed = {KEY: _BLANK, PLACE: place, **value}
    return _fill_digest(json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False).encode())


def fault_of(content: Iterable[bytes], place: str, sha256: str = "") -> Fault | None:
    """Return what is wrong with a file, None if nothing is.

    Args:
        content: the file in pieces; the seal must be in the first piece.
        place: the name that the file must belong to. Its suffix says whether the file carries a seal.
        sha256: the checksum of the whole file, if a manifest lists it.
    """
    pieces = iter(content)
    first_piece, file_digest = next(pieces, b""), hashlib.sha256()
    pattern = _FORMATS.get(Path(place).suffix)
    seal = pattern.match(first_piece) if pattern else None
    if pattern and not seal:
        return _missing_seal_fault(b"".join([first_piece, *pieces]), pattern)
    seal_digest = _blanked_digest(first_piece, seal) if seal else None
    if sha256:
        file_digest.update(first_piece)
    for piece in pieces:
        if seal_digest:
            seal_digest.update(piece)
        if sha256:
            file_digest.update(piece)
    if seal and seal_digest and seal_digest.hexdigest().encode() != seal[1]:
        return Fault("damaged", "is damaged: its content is not what was written")
    if seal and seal[2] != place.encode():
        return Fault("foreign", f"belongs to {seal[2].decode(errors='replace')}: somebody put it here")
    if sha256 and file_digest.hexdigest() != sha256:
        return Fault("damaged", "is damaged: its content is not what its record's manifest lists")
    return None


def require_intact(content: bytes, address: str, place: str, sha256: str = "") -> None:
    """Raise an error for content that raydd did not write to this place.

    Args:
        content: content of the whole file.
        address: the file's name for the message.
        place: see `fault_of`.
        sha256: see `fault_of`.

    Raises:
        RecordError: the content is wrong. The message names the file and what is wrong with it.
    """
    _raise_fault(fault_of([content], place, sha256), address)


def require_intact_file(path: Path, address: str, place: str, sha256: str = "") -> None:
    """Do the same as `require_intact` for a file on this machine, which is read in pieces."""
    _raise_fault(fault_of(pieces_of(path), place, sha256), address)


def pieces_of(path: Path) -> Iterator[bytes]:
    """Read a file of this machine in pieces of 4 MiB."""
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


def _raise_fault(fault: Fault | None, address: str) -> None:
    if fault:
        raise RecordError(f"{address} {fault.reason}. Delete it and make it again.")


def _missing_seal_fault(content: bytes, pattern: re.Pattern[bytes]) -> Fault:
    """Return the fault of a file without a valid seal: damaged if it is cut short or overwritten, else unsealed."""
    try:
        if pattern is _IN_JSON:
            json.loads(content)
        else:
            length = int.from_bytes(content[:_LENGTH_BYTES], "little")
            json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
    except (ValueError, RecursionError) as error:
        return Fault("damaged", f"is damaged ({error})")
    if _DIGEST_TEXT.search(content, 0, _HEAD_BYTES):
        return Fault("damaged", "is damaged: its checksum is not where it was written")
    return Fault("unsealed", "was not written by this version of raydd, or its checksum was removed")


def _fill_digest(content: bytes) -> bytes:
    start = content.index(_BLANK.encode())
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:start] + digest + content[start + len(digest) :]


def _blanked_digest(first_piece: bytes, seal: re.Match[bytes]) -> "hashlib._Hash":
    """Return the digest of a file's first piece, with the seal's own digest left blank."""
    view = memoryview(first_piece)  # slices of a memoryview copy nothing
    digest = hashlib.sha256(view[: seal.start(1)])
    digest.update(_BLANK.encode())
    digest.update(view[seal.end(1) :])
    return digest
