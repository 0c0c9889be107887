"""A record: the files of one stage's result, complete when its manifest, written last, is there.

Each file proves that raydd wrote it to this place of this record. JSON and safetensors files carry a seal that says so.
The manifest, sealed itself, lists the SHA-256 of all others (Parquet, PNG), which are checked whenever they are read.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
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

LENGTH = 16  # hexadecimal digits, 64 bits: no collision among any number of records a sweep can make


def canonical(value: Any) -> str:
    """One JSON text for equal settings: sorted keys, no spaces, dataclasses as mappings, 1.0 and 1 apart.

    Raises:
        ValueError: a NaN or an infinity, which equal nothing, or a type that JSON lacks.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def fingerprint(stage: str, version: int, settings: Mapping[str, Any], upstream: Mapping[str, str]) -> str:
    """The name of a record: SHA-256 over stage, format version, settings and upstream fingerprints, 16 hex digits."""
    text = canonical({"stage": stage, "version": version, "settings": settings, "upstream": upstream})
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"settings are keyed by names, not by {sorted(map(str, value))}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be part of a fingerprint")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"a {type(value).__name__} cannot be part of a fingerprint")


MANIFEST = "manifest.json"
_ITEMS = "items"  # holds a value that is no mapping, or has a key of the seal, so that there is room for its seal
_FIELDS = {
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
    """The place of one stage's result in the store, whether it is there yet or not.

    Two writers of the same record write the same content, so they do each other no harm.
    """

    store: Store
    stage: str
    fingerprint: str
    settings: Mapping[str, Any] = field(repr=False)
    upstream: Mapping[str, str] = field(repr=False)
    version: int = 1
    copied_to: str = ""
    """The folder inside the store where it lies, if it was copied there under another name."""
    _listed: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """SHA-256 of the files written so far that carry no seal; `finish` puts them into the manifest."""

    @classmethod
    def of(
        cls, store: Store, stage: str, settings: Mapping[str, Any], upstream: Mapping[str, str], *, version: int
    ) -> Self:
        """The record of a stage run with these settings on these upstream fingerprints."""
        settings = json.loads(canonical(settings))
        name = fingerprint(stage, version, settings, upstream)
        return cls(store, stage, name, settings, dict(upstream), version)

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """The complete record that a folder of this machine holds, whatever the folder is called.

        Its manifest says which record it is, and all its files must belong to that one. The record's store is what
        lies two levels above the folder, as for a record that was never copied.

        Raises:
            RecordError: the folder has no manifest, or it is damaged.
        """
        folder = folder.expanduser().absolute()
        store, lies = Store(folder.parent.parent), f"{folder.parent.name}/{folder.name}"
        content = store.content(f"{lies}/{MANIFEST}")
        where = f"{folder}/{MANIFEST}"
        try:
            told = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RecordError(_no_manifest(where, f"it is not JSON: {error}")) from error
        if not isinstance(told, dict) or not {"stage", "fingerprint"} <= set(told):
            raise RecordError(_no_manifest(where, "it does not say which record it is of"))
        named = cls(store, str(told["stage"]), str(told["fingerprint"]), {}, {}, copied_to=lies)
        manifest = named.manifest()
        lies = "" if lies == f"{named.stage}/{named.fingerprint}" else lies
        return dataclasses.replace(
            named,
            settings=manifest["settings"],
            upstream=manifest["upstream"],
            version=manifest["version"],
            copied_to=lies,
        )

    @property
    def folder(self) -> str:
        """The record's folder inside the store: `stage/fingerprint`, but for a copy."""
        return self.copied_to or f"{self.stage}/{self.fingerprint}"

    @property
    def complete(self) -> bool:
        """Whether the manifest is there, and with it every file of the record.

        Raises:
            RecordError: what is there is not this record's manifest, or damaged.
        """
        if not self.has(MANIFEST):
            return False
        self.manifest()
        return True

    def has(self, name: str) -> bool:
        """Whether one file of the record is there, complete or not the record itself."""
        return self.store.exists(f"{self.folder}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write one file of a format that carries no seal, such as PNG; it can be read once the record is complete."""
        if sealable(name):
            raise ValueError(f"{name} needs a seal: use write_json or write_tensors")
        self._listed[name] = checksum(content)
        self.store.write(f"{self.folder}/{name}", content)

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
        """Write named tensors as safetensors; `facts` go into its header as JSON, beside the code's version."""
        content = save_tensors({key: value.contiguous() for key, value in tensors.items()})
        notes = {"raydd": code_version(), **({"facts": canonical(facts)} if facts else {})}
        self.store.write(f"{self.folder}/{name}", seal_tensors(content, notes, self._place(name)))

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON, indented for a reader."""
        plain = isinstance(value, Mapping) and not {KEY, PLACE, _ITEMS} & set(value)
        content = seal_json(value if plain else {_ITEMS: value}, self._place(name))
        self.store.write(f"{self.folder}/{name}", content)

    def read(self, name: str) -> bytes:
        """The content of one file of the record.

        Raises:
            RecordError: the file is missing or not what was written, or carries no seal and the manifest does not list
                it.
        """
        full, place = f"{self.folder}/{name}", self._place(name)
        try:
            return self.store.read(full, place=place, sha256="" if sealable(name) else self._sum(name))
        except RecordError:
            # Another machine may have made the record again, or deleted it, since this one copied the manifest from the
            # bucket: who looks for it next looks there.
            self.store.forget(f"{self.folder}/{MANIFEST}")
            if sealable(name):
                raise
            return self.store.read(full, place=place, sha256=self._sum(name))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one safetensors file.

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
        """The tensors of a safetensors file that never changes, mapped into memory: a node's processes share one copy.

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
        """The value of one JSON file; none of them changes once it is written.

        Raises:
            RecordError: the file is missing or damaged.
        """
        value = self._json(name)
        return value[_ITEMS] if set(value) == {_ITEMS} else value

    def local(self, name: str) -> Path:
        """A path on this machine that holds one file of the record.

        Raises:
            RecordError: as `read`.
        """
        return self.store.local(f"{self.folder}/{name}", place=self._place(name), sha256=self._sum(name))

    def remove(self, name: str) -> None:
        """Delete one file of the record, if it is there."""
        self.store.remove(f"{self.folder}/{name}")

    def finish(self, files: Mapping[str, str] | None = None, facts: Mapping[str, Any] | None = None) -> None:
        """Write the manifest, which makes the record complete.

        Args:
            files: the SHA-256 (see `checksum`) of files to list by name, besides those that `write` wrote.
            facts: what a reader of the record wants to know without opening its files.
        """
        self.write_json(
            MANIFEST,
            {
                "stage": self.stage,
                "fingerprint": self.fingerprint,
                "version": self.version,
                "settings": self.settings,
                "upstream": self.upstream,
                "files": {**self._listed, **(files or {})},
                "facts": dict(facts or {}),
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "raydd": code_version(),
            },
        )

    def manifest(self) -> dict[str, Any]:
        """The manifest of a complete record, with the fields that `finish` writes.

        Raises:
            RecordError: the record is not complete, or its manifest is damaged, lacks a field, or is another record's.
        """
        manifest, where = self._json(MANIFEST), f"{self.store.root}/{self.folder}/{MANIFEST}"
        for name, kind in _FIELDS.items():
            if not isinstance(manifest.get(name), kind):
                raise RecordError(_no_manifest(where, f"its field {name!r} is missing or of another type"))
        told = f"{manifest['stage']}/{manifest['fingerprint']}"
        if told != f"{self.stage}/{self.fingerprint}":
            raise RecordError(_no_manifest(where, f"it is that of {told}"))
        return manifest

    def facts(self) -> dict[str, Any]:
        """The facts of a complete record.

        Raises:
            RecordError: as `manifest`.
        """
        return self.manifest()["facts"]

    def _place(self, name: str) -> str:
        """What the seal of a file of this record names."""
        return f"{self.stage}/{self.fingerprint}/{name}"

    def _sum(self, name: str) -> str:
        """The SHA-256 by which a file without a seal is checked; empty for one with a seal."""
        if sealable(name):
            return ""
        listed = self.manifest()["files"].get(name)
        if not isinstance(listed, str) or not listed:
            raise RecordError(
                f"{self.store.root}/{self.folder}/{name} was not written by raydd: the record's manifest does not list "
                "it. Delete it, or make the record again."
            )
        return listed

    def _json(self, name: str) -> dict[str, Any]:
        """The mapping of a sealed JSON file, without the seal."""
        content = self.store.read_kept(f"{self.folder}/{name}", place=self._place(name))
        value = json.loads(content)  # a sealed file was whole when it was checked
        return {key: item for key, item in value.items() if key not in (KEY, PLACE)}


def _no_manifest(where: str, why: str) -> str:
    return f"{where} is not the manifest of this record: {why}. Delete it and make the record again."


def checksum(content: bytes) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
