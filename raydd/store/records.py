"""A record: the files of one stage's result, complete when its manifest, written last, is there."""

import hashlib
import json
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
from raydd.store.fingerprints import canonical, fingerprint
from raydd.store.seals import KEY, seal_json, seal_tensors
from raydd.store.storage import Store

MANIFEST = "manifest.json"
_ITEMS = "items"  # holds a value that is no mapping, so that there is a place for its seal


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

    @classmethod
    def of(
        cls, store: Store, stage: str, settings: Mapping[str, Any], upstream: Mapping[str, str], *, version: int
    ) -> Self:
        """The record of a stage run with these settings on these upstream fingerprints."""
        settings = json.loads(canonical(settings))
        name = fingerprint(stage, version, settings, upstream)
        return cls(store, stage, name, settings, dict(upstream), version)

    @property
    def folder(self) -> str:
        """The record's folder inside the store: `stage/fingerprint`."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def complete(self) -> bool:
        """Whether the manifest is there, and with it every file it lists."""
        return self.store.exists_for_good(f"{self.folder}/{MANIFEST}")

    def has(self, name: str) -> bool:
        """Whether one file of the record is there, complete or not the record itself."""
        return self.store.exists(f"{self.folder}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write one file of the record."""
        self.store.write(f"{self.folder}/{name}", content)

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
        """Write named tensors as safetensors; `facts` go into its header as JSON, beside the code's version."""
        content = save_tensors({key: value.contiguous() for key, value in tensors.items()})
        notes = {"raydd": code_version(), **({"facts": canonical(facts)} if facts else {})}
        self.write(name, seal_tensors(content, notes))

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON, indented for a reader."""
        self.write(name, seal_json(value if isinstance(value, Mapping) else {_ITEMS: value}))

    def read(self, name: str) -> bytes:
        """The content of one file of the record."""
        return self.store.read(f"{self.folder}/{name}")

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
        try:
            value = json.loads(self.store.read_kept(f"{self.folder}/{name}"))
        except ValueError as error:
            raise RecordError(
                f"{self.store.root}/{self.folder}/{name} is damaged ({error}). Delete it and make it again."
            ) from error
        if not isinstance(value, dict):
            return value
        value.pop(KEY, None)
        return value[_ITEMS] if set(value) == {_ITEMS} else value

    def local(self, name: str) -> Path:
        """A path on this machine that holds one file of the record."""
        return self.store.local(f"{self.folder}/{name}")

    def remove(self, name: str) -> None:
        """Delete one file of the record, if it is there."""
        self.store.remove(f"{self.folder}/{name}")

    def finish(self, files: Mapping[str, str] | None = None, facts: Mapping[str, Any] | None = None) -> None:
        """Write the manifest, which makes the record complete.

        Args:
            files: each file's name and SHA-256 (see `checksum`), where a reader is to check them.
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
                "files": dict(files or {}),
                "facts": dict(facts or {}),
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "raydd": code_version(),
            },
        )

    def facts(self) -> dict[str, Any]:
        """The facts of a complete record.

        Raises:
            RecordError: the record is not complete.
        """
        return self.read_json(MANIFEST)["facts"]


def checksum(content: bytes) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
