"""The class of a method, and the settings that all scripts of the reference code share for Flickr30k and 100 pairs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

FLICKR30K_100: Mapping[str, Any] = {
    "experts.lr": 0.1,
    "distill.student_steps": 8,
    "distill.minibatch": 20,
    "distill.target_epochs": 1,
    "distill.max_start_epoch": 2,
    "distill.start_rate": 0.1,
    "students.weight_decay": 5e-4,
}
SCRIPTS: Mapping[str, Any] = {"distill.steps": 3000, "students.batch_size": 128}
SIMILARITY: Mapping[str, Any] = {"distill.rank": 10, "distill.alpha": 3.0}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method as settings of the engine."""

    paper: str
    """Who published the method, and where."""
    settings: Mapping[str, Any]
    """Dotted settings that turn the engine into this method; a user's own settings take precedence."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """Published settings that hold for features and pixels alike; outer learning rates, for pixels, do not."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """How the method's code scores students, if not as RepBlend's code does; used if `compare.choice` is published."""
    space: str = ""
    """The method's search space, a name for `sweep.space`; if empty, `raydd compare` does not search the method."""

    def changed(self, settings: Mapping[str, Any]) -> Self:
        """Return a method with other dotted settings on top, and without what was published of this one."""
        return type(self)(paper=self.paper, settings={**self.settings, **settings})
