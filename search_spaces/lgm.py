"""LGM: minibatch size of real pairs, steps and learning rates."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import Trial

from raydd.distill.methods.lgm import METHOD
from search_spaces._objectives import OURS, suggest_learning

FIRST: tuple[dict[str, Any], ...] = ({**OURS, "distill.real_minibatch": 256},)


def space(trial: Trial) -> Mapping[str, Any]:
    """Suggest the settings of one trial."""
    suggest_learning(trial)
    trial.suggest_categorical("distill.real_minibatch", [128, 256, 512, 1024])
    return METHOD.settings
