"""MDM: epochs of its experts, minibatch size of real pairs, steps and learning rates."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import Trial

from raydd.distill.methods.mdm import METHOD
from search_spaces._objectives import OURS, suggest_learning

FIRST: tuple[dict[str, Any], ...] = (
    {**OURS, "distill.target_epochs": 2, "distill.real_minibatch": 256, "experts.lr": 0.2},
    {**OURS, "distill.target_epochs": 10, "distill.real_minibatch": 256, "experts.lr": 0.1},
)


def space(trial: Trial) -> Mapping[str, Any]:
    """Suggest the settings of one trial."""
    suggest_learning(trial)
    trial.suggest_categorical("experts.lr", [0.1, 0.2, 0.4])
    trial.suggest_int("distill.target_epochs", 1, 10, log=True)
    trial.suggest_categorical("distill.real_minibatch", [128, 256, 512, 1024])
    return METHOD.settings
