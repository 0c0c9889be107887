"""Collapse of a synthetic set over the steps of its distillation, measured now and then.

The space that is looked at is that of the first expert's last snapshot, the same at every step.
"""

from raydd.config import DistillConfig
from raydd.distill.experts import Experts
from raydd.distill.heads import embed
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.collapse import collapse_measures

_POINTS = 10  # over the steps, beside the start


def is_due(step: int, steps: int) -> bool:
    """Whether the set is looked at after so many of its steps: at the start, ten times on the way, and at the end."""
    return step == steps or step % max(1, steps // _POINTS) == 0


def collapse_of(experts: Experts, config: DistillConfig, synthetic: SyntheticSet) -> dict[str, float]:
    """Collapse measures of a synthetic set."""
    image, text = experts.snapshot(0, config.expert_epochs[-1])
    return collapse_measures(embed(image, synthetic.image_features), embed(text, synthetic.text_features))
