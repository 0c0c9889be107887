"""LoRS: trajectory length, learning rates, the low-rank similarity matrix and the loss."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import Trial

from raydd.distill.methods.lors import METHOD
from search_spaces._trajectories import FIRST_WITH_SIMILARITY, suggest_similarity, suggest_trajectory, without_loss

FIRST = FIRST_WITH_SIMILARITY


def space(trial: Trial) -> Mapping[str, Any]:
    """Suggest the settings of one trial."""
    suggest_trajectory(trial)
    suggest_similarity(trial)
    return without_loss(METHOD)
