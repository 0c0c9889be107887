"""A record's name: the hash of everything that decided its content."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

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
