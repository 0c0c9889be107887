"""Other draws of the same settings, of which the best on val is kept: start pairs, minibatches and the experts' order.

A draw moves val r_mean by 0.3 to 1 point, more where settings are weak, and rungs stop most draws early. All settings
are yours: give those that a sweep found, `raydd sweep --config best.yaml --sweep.name starts --sweep.space starts`.
"""

from typing import Any

from optuna.trial import Trial

FIRST: tuple[dict[str, Any], ...] = tuple({"distill.seed": seed} for seed in range(100))


def space(trial: Trial) -> dict[str, Any]:
    """Suggest the seed of all that a distillation draws."""
    trial.suggest_int("distill.seed", 0, 9999)
    return {}
