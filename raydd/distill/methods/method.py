"""What a method of the registry is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Method:
    """A published method as settings of the engine."""

    paper: str
    """Who published it, and where."""
    settings: Mapping[str, Any]
    """Dotted settings that make the engine this method; a user's own settings win over them."""
