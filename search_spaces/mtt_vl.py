"""MTT-VL: trajectory length and learning rates. The settings that define the method are fixed."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import Trial

from raydd.distill.methods.mtt_vl import METHOD
from search_spaces._trajectories import LONGER, OURS, PUBLISHED, suggest_trajectory

FIRST: tuple[dict[str, Any], ...] = (OURS, LONGER, PUBLISHED)


def space(trial: Trial) -> Mapping[str, Any]:
    """Suggest the settings of one trial."""
    suggest_trajectory(trial)
    return METHOD.settings
