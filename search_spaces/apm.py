"""APM: penalty of the projectors, weight of the means, steps and learning rates."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import Trial

from raydd.distill.methods.apm import METHOD
from search_spaces._objectives import OURS, suggest_learning

FIRST: tuple[dict[str, Any], ...] = (
    {**OURS, "distill.ridge_strength": 3.0, "distill.mean_weight": 0.1},
    {**OURS, "distill.ridge_strength": 3.0, "distill.mean_weight": 0.01},
)


def space(trial: Trial) -> Mapping[str, Any]:
    """Suggest the settings of one trial."""
    suggest_learning(trial)
    trial.suggest_float("distill.ridge_strength", 0.03, 30.0, log=True)
    trial.suggest_float("distill.mean_weight", 0.001, 1.0, log=True)
    return METHOD.settings
