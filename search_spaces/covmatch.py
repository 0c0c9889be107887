"""CovMatch: scale of the covariance, weight of the means, steps and learning rates."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import Trial

from raydd.distill.methods.covmatch import METHOD
from search_spaces._objectives import OURS, suggest_learning

FIRST: tuple[dict[str, Any], ...] = (
    {**OURS, "distill.covariance_scale": 1.0, "distill.mean_weight": 0.1},
    {**OURS, "distill.covariance_scale": 2.0, "distill.mean_weight": 0.1},
)


def space(trial: Trial) -> Mapping[str, Any]:
    """Suggest the settings of one trial."""
    suggest_learning(trial)
    trial.suggest_float("distill.covariance_scale", 0.5, 8.0, log=True)
    trial.suggest_float("distill.mean_weight", 0.01, 10.0, log=True)
    return METHOD.settings
