"""LoRS: trajectory length, learning rates, the low-rank similarity matrix and the loss."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import Trial

from raydd.distill.methods.lors import METHOD
from search_spaces._trajectories import (
    LONGER,
    OUR_SIMILARITY,
    OURS,
    PUBLISHED,
    suggest_similarity,
    suggest_trajectory,
    without_loss,
)

FIRST: tuple[dict[str, Any], ...] = (
    {**OURS, **OUR_SIMILARITY, "distill.loss": "infonce"},
    {**OURS, **OUR_SIMILARITY, "distill.loss": "wbce"},
    {**LONGER, **OUR_SIMILARITY, "distill.loss": "infonce"},
    {**PUBLISHED, **OUR_SIMILARITY, "distill.loss": "wbce"},
)


def space(trial: Trial) -> Mapping[str, Any]:
    """Suggest the settings of one trial."""
    suggest_trajectory(trial)
    suggest_similarity(trial)
    return without_loss(METHOD)
