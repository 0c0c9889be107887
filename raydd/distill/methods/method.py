"""What a method of the registry is, and what the reference code's scripts for Flickr30k and 100 pairs all set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FLICKR30K_100: Mapping[str, Any] = {
    "experts.lr": 0.1,
    "distill.student_steps": 8,
    "distill.minibatch": 20,
    "distill.target_epochs": 1,
    "distill.max_start_epoch": 2,
    "distill.start_rate": 0.1,
}
STEPS: Mapping[str, Any] = {"distill.steps": 3000}
SIMILARITY: Mapping[str, Any] = {"distill.rank": 10, "distill.alpha": 3.0}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A published method as settings of the engine."""

    paper: str
    """Who published it, and where."""
    settings: Mapping[str, Any]
    """Dotted settings that make the engine this method; a user's own settings win over them."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """Its published numbers, those that hold whatever is learned: outer learning rates in pixels are not among them."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """How its code scores students, where that is not as RepBlend's does; read under `compare.choice` published."""
    space: str = ""
    """Search space of its own, as `sweep.space` names it; empty is not searched by `raydd compare`."""
