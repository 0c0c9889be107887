"""Ridge: initial penalty, minibatch size of real pairs, steps and learning rates."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import Trial

from raydd.distill.methods.ridge import METHOD
from search_spaces._objectives import OURS, suggest_learning

FIRST: tuple[dict[str, Any], ...] = (
    {**OURS, "distill.ridge_strength": 3.0, "distill.real_minibatch": 256, "distill.rate_lr": 0.02},
)


def space(trial: Trial) -> Mapping[str, Any]:
    """Suggest the settings of one trial."""
    suggest_learning(trial)
    trial.suggest_float("distill.ridge_strength", 0.1, 30.0, log=True)
    trial.suggest_categorical("distill.real_minibatch", [128, 256, 512, 1024])
    trial.suggest_float("distill.rate_lr", 0.005, 0.1, log=True)
    return METHOD.settings
