"""What a method of the registry is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Method:
    """A published method as settings of the engine."""

    paper: str
    """Who published it, and where."""
    settings: Mapping[str, Any]
    """Dotted settings that make the engine this method; a user's own settings win over them."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """Its published numbers, those that hold whatever is learned: outer step sizes in pixels are not among them."""
    space: str = ""
    """Search space of its own, as `sweep.space` names it; empty is not searched by `raydd compare`."""
