"""A record: the files of one stage's result. It is complete when its manifest exists, which is written last.

Each file proves that raydd wrote it to this place in this record. JSON and safetensors files carry a seal for this. The
manifest, which is sealed itself, lists the SHA-256 of all other files (Parquet, PNG). Files are checked whenever they
are read.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from raydd.code_version import code_version
from raydd.errors import RecordError
from raydd.store.seals import KEY, PLACE, seal_json, seal_tensors, sealable
from raydd.store.storage import Store

LENGTH = 16  # hexadecimal digits, 64 bits: no collision among as many records as a sweep can make


def canonical(value: Any) -> str:
    """Return the same JSON text for equal settings: sorted keys, no spaces, dataclasses as mappings; 1.0 and 1 differ.

    Raises:
        ValueError: the value holds a NaN, an infinity, or a type that JSON lacks.
    """
    return json.dumps(_to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def fingerprint(stage: str, version: int, settings: Mapping[str, Any], upstream: Mapping[str, str]) -> str:
    """Return a record's name: SHA-256 over stage, format version, settings and upstream fingerprints, 16 hex digits."""
    text = canonical({"stage": stage, "version": version, "settings": settings, "upstream": upstream})
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"settings are keyed by names, not by {sorted(map(str, value))}")
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be part of a fingerprint")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"a {type(value).__name__} cannot be part of a fingerprint")


MANIFEST = "manifest.json"
_ITEMS = "items"  # holds a value that is not a mapping or has a key of the seal, to make room for the seal
_MANIFEST_FIELDS = {
    "stage": str,
    "fingerprint": str,
    "version": int,
    "settings": dict,
    "upstream": dict,
    "files": dict,
    "facts": dict,
    "made": str,
    "raydd": str,
}


@dataclass(frozen=True)
class Record:
    """The place of one stage's result in the store; the result need not exist yet.

    Two writers of the same record write the same content, so they can write at the same time.
    """

    store: Store
    stage: str
    fingerprint: str
    settings: Mapping[str, Any] = field(repr=False)
    upstream: Mapping[str, str] = field(repr=False)
    version: int = 1
    copied_to: str = ""
    """The record's folder inside the store, if the record was copied there under another name."""
    _digests: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """SHA-256 of the files written so far that carry no seal; `finish` puts them into the manifest."""

    @classmethod
    def of(
        cls, store: Store, stage: str, settings: Mapping[str, Any], upstream: Mapping[str, str], *, version: int
    ) -> Self:
        """Return the record of a stage with these settings and these upstream fingerprints."""
        settings = json.loads(canonical(settings))
        name = fingerprint(stage, version, settings, upstream)
        return cls(store, stage, name, settings, dict(upstream), version)

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """Return the complete record that a folder of this machine holds, regardless of the folder's name.

        The manifest says which record it is, and all files must belong to that record. The record's store is the folder
        two levels above, as for a record that was never copied.

        Raises:
            RecordError: the folder has no manifest, or it is damaged.
        """
        folder = folder.expanduser().absolute()
        store, relative = Store(folder.parent.parent), f"{folder.parent.name}/{folder.name}".lstrip("/")
        content = store.content(f"{relative}/{MANIFEST}")
        manifest_path = f"{folder}/{MANIFEST}"
        try:
            unchecked = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RecordError(_wrong_manifest_message(manifest_path, f"it is not JSON: {error}")) from error
        if not isinstance(unchecked, dict) or not {"stage", "fingerprint"} <= set(unchecked):
            raise RecordError(_wrong_manifest_message(manifest_path, "it does not say which record it is of"))
        record = cls(store, str(unchecked["stage"]), str(unchecked["fingerprint"]), {}, {}, copied_to=relative)
        manifest = record.manifest()
        relative = "" if relative == f"{record.stage}/{record.fingerprint}" else relative
        return dataclasses.replace(
            record,
            settings=manifest["settings"],
            upstream=manifest["upstream"],
            version=manifest["version"],
            copied_to=relative,
        )

    @property
    def folder(self) -> str:
        """The record's folder inside the store: `stage/fingerprint`, except for a copy."""
        return self.copied_to or f"{self.stage}/{self.fingerprint}"

    @property
    def complete(self) -> bool:
        """Whether the manifest exists, and with it every file of the record.

        Raises:
            RecordError: the manifest is damaged, or is not that of this record.
        """
        if not self.has(MANIFEST):
            return False
        self.manifest()
        return True

    def has(self, name: str) -> bool:
        """Return whether one file of the record exists; the record need not be complete."""
        return self.store.exists(f"{self.folder}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write one file of a format without a seal, such as PNG. It can be read once the record is complete."""
        if sealable(name):
            raise ValueError(f"{name} needs a seal: use write_json or write_tensors")
        self._digests[name] = checksum(content)
        self.store.write(f"{self.folder}/{name}", content)

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
        """Write named tensors as safetensors; `facts` go into the header as JSON, next to raydd's version."""
        content = save_tensors({key: value.contiguous() for key, value in tensors.items()})
        notes = {"raydd": code_version(), **({"facts": canonical(facts)} if facts else {})}
        self.store.write(f"{self.folder}/{name}", seal_tensors(content, notes, self._seal_place(name)))

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON, indented for readability."""
        unwrapped = isinstance(value, Mapping) and not {KEY, PLACE, _ITEMS} & set(value)
        content = seal_json(value if unwrapped else {_ITEMS: value}, self._seal_place(name))
        self.store.write(f"{self.folder}/{name}", content)

    def read(self, name: str) -> bytes:
        """Return the content of one file of the record.

        Raises:
            RecordError: the file is missing, not what was written, or neither sealed nor listed by the manifest.
        """
        path, place = f"{self.folder}/{name}", self._seal_place(name)
        try:
            return self.store.read(path, place=place, sha256="" if sealable(name) else self._expected_digest(name))
        except RecordError:
            # Another machine may have rewritten or deleted the record since this machine copied the manifest from the
            # bucket, so drop the copy: the next reader asks the bucket.
            self.store.forget(f"{self.folder}/{MANIFEST}")
            if sealable(name):
                raise
            return self.store.read(path, place=place, sha256=self._expected_digest(name))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one safetensors file.

        Raises:
            RecordError: the file is missing or damaged.
        """
        try:
            return load_tensors(self.read(name))
        except SafetensorError as error:
            raise RecordError(
                f"{self.store.root}/{self.folder}/{name} is damaged ({error}). Delete {self.folder} and make it again."
            ) from error

    def map_tensors(self, name: str) -> dict[str, Tensor]:
        """Map the tensors of a safetensors file that never changes into memory; a node's processes share one copy.

        Raises:
            RecordError: the file is missing or damaged.
        """
        path = self.local(name)
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no mapping
        except SafetensorError as error:
            raise RecordError(
                f"{self.store.root}/{self.folder}/{name} is damaged ({error}). Delete {self.folder} and make it again."
            ) from error

    def read_json(self, name: str) -> Any:
        """Return the value of one JSON file; a bucket's file is read from this machine's copy, if there is one.

        Raises:
            RecordError: the file is missing or damaged.
        """
        value = self._read_sealed_json(name)
        return value[_ITEMS] if set(value) == {_ITEMS} else value

    def local(self, name: str) -> Path:
        """Return a path on this machine that holds one file of the record.

        Raises:
            RecordError: see `read`.
        """
        try:
            return self.store.local(
                f"{self.folder}/{name}", place=self._seal_place(name), sha256=self._expected_digest(name)
            )
        except RecordError:
            self.store.forget(f"{self.folder}/{MANIFEST}")  # as in `read`
            raise

    def remove(self, name: str) -> None:
        """Delete one file of the record, if it exists."""
        self.store.remove(f"{self.folder}/{name}")

    def finish(self, names: Iterable[str] = (), facts: Mapping[str, Any] | None = None) -> None:
        """Write the manifest, which makes the record complete.

        Args:
            names: files whose checksum is listed, in addition to those that `write` wrote.
            facts: facts for readers of the record, who then need not open its files.
        """
        digests = {name: checksum(self.local(name).read_bytes()) for name in names}
        self.write_json(
            MANIFEST,
            {
                "stage": self.stage,
                "fingerprint": self.fingerprint,
                "version": self.version,
                "settings": self.settings,
                "upstream": self.upstream,
                "files": {**self._digests, **digests},
                "facts": dict(facts or {}),
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "raydd": code_version(),
            },
        )

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of a complete record, with the fields that `finish` writes.

        Raises:
            RecordError: the record is not complete, or its manifest is damaged, lacks a field, or is another record's.
        """
        manifest, path = self._read_sealed_json(MANIFEST), f"{self.store.root}/{self.folder}/{MANIFEST}"
        for name, kind in _MANIFEST_FIELDS.items():
            if not isinstance(manifest.get(name), kind):
                raise RecordError(_wrong_manifest_message(path, f"its field {name!r} is missing or of another type"))
        record_name = f"{manifest['stage']}/{manifest['fingerprint']}"
        if record_name != f"{self.stage}/{self.fingerprint}":
            raise RecordError(_wrong_manifest_message(path, f"it is that of {record_name}"))
        return manifest

    def facts(self) -> dict[str, Any]:
        """Return the facts of a complete record.

        Raises:
            RecordError: see `manifest`.
        """
        return self.manifest()["facts"]

    def _seal_place(self, name: str) -> str:
        """Return the place that the seal of a file of this record must name."""
        return f"{self.stage}/{self.fingerprint}/{name}"

    def _expected_digest(self, name: str) -> str:
        """Return the SHA-256 by which a file without a seal is checked; "" for a file with a seal."""
        if sealable(name):
            return ""
        digest = self.manifest()["files"].get(name)
        if not isinstance(digest, str) or not digest:
            raise RecordError(
                f"{self.store.root}/{self.folder}/{name} was not written by raydd: the record's manifest does not list "
                "it. Delete it, or make the record again."
            )
        return digest

    def _read_sealed_json(self, name: str) -> dict[str, Any]:
        """Return the mapping of a sealed JSON file, without the seal."""
        content = self.store.read_cached(f"{self.folder}/{name}", place=self._seal_place(name))
        value = json.loads(content)  # a sealed file was whole when it was checked
        return {key: item for key, item in value.items() if key not in (KEY, PLACE)}


def _wrong_manifest_message(address: str, reason: str) -> str:
    return f"{address} is not the manifest of this record: {reason}. Delete it and make the record again."


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
