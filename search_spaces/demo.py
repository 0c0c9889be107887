"""A small space for `raydd demo`: the settings that matter most in a short run. All trials share the same experts."""

from typing import Any

from optuna.trial import Trial

FIRST: tuple[dict[str, Any], ...] = (
    {"distill.blend": "none", "distill.image_lr": 0.13, "distill.text_lr": 0.05, "distill.start_rate": 0.04},
    {"distill.blend": "none", "distill.image_lr": 0.1, "distill.text_lr": 0.2, "distill.start_rate": 0.2},
)


def space(trial: Trial) -> dict[str, Any]:
    """Suggest blending, the learning rates of the pairs and the students' initial learning rate."""
    trial.suggest_categorical("distill.blend", ["beta", "none"])
    trial.suggest_float("distill.image_lr", 0.02, 0.3, log=True)
    trial.suggest_float("distill.text_lr", 0.03, 0.5, log=True)
    trial.suggest_float("distill.start_rate", 0.02, 0.5, log=True)
    return {}
