"""RepBlend for comparisons: always with blending, and in the same ranges as the spaces of other matching methods."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import Trial

from raydd.distill.methods.repblend import METHOD
from search_spaces._trajectories import FIRST_WITH_SIMILARITY, suggest_similarity, suggest_trajectory, without_loss

FIRST = tuple({**first, "distill.blend_beta": 1.0} for first in FIRST_WITH_SIMILARITY)


def space(trial: Trial) -> Mapping[str, Any]:
    """Suggest the settings of one trial."""
    suggest_trajectory(trial)
    suggest_similarity(trial)
    trial.suggest_float("distill.blend_beta", 0.2, 5.0, log=True)
    return without_loss(METHOD)
