"""RepBlend's settings, searched on features (Zhang et al., NeurIPS 2025, arXiv:2505.14705).

Where the ranges come from. The published settings (SGD on pixels) fix the shape of the space: similarity rank 5 to 40,
alpha 0.01 to 3, 8 student steps, start epochs 0 to 2, rates that start at 0.1. The outer step sizes are for Adam on
features in units of their spread, a tenth to ten times our defaults. Trajectories reach up to ten epochs ahead and
experts run up to four times the published rate, since both raise r_mean by more than the method does. What changes
the experts (their rate, the temperature) takes few values, so that trials share them.
"""

from typing import Any

from optuna.trial import Trial

_OURS: dict[str, Any] = {
    "experts.lr": 0.2,
    "experts.temperature": 0.07,
    "distill.blend": "beta",
    "distill.blend_beta": 1.0,
    "distill.similarity": "low-rank",
    "distill.rank": 10,
    "distill.alpha": 3.0,
    "distill.student_steps": 20,
    "distill.target_epochs": 7,
    "distill.max_start_epoch": 2,
    "distill.start_rate": 0.1,
    "distill.image_lr": 0.05,
    "distill.text_lr": 0.05,
    "distill.similarity_lr": 0.05,
    "distill.rate_lr": 0.02,
}

# Flickr30k at 100 pairs as published, in what carries over from pixels to features; then our defaults, with blending
# and without.
FIRST: tuple[dict[str, Any], ...] = (
    {**_OURS, "experts.lr": 0.1, "distill.student_steps": 8, "distill.target_epochs": 1},
    _OURS,
    {**_OURS, "distill.blend": "none"},
)


def space(trial: Trial) -> dict[str, Any]:
    """Suggest the settings of one trial; a blend or a similarity brings the settings that it alone reads."""
    trial.suggest_categorical("experts.lr", [0.1, 0.2, 0.4])
    trial.suggest_categorical("experts.temperature", [0.05, 0.07])

    blend = trial.suggest_categorical("distill.blend", ["none", "beta", "fixed"])
    if blend == "beta":
        trial.suggest_float("distill.blend_beta", 0.2, 5.0, log=True)
    elif blend == "fixed":
        trial.suggest_float("distill.blend_ratio", 0.02, 0.5)

    similarity = trial.suggest_categorical("distill.similarity", ["low-rank", "identity"])
    if similarity == "low-rank":
        trial.suggest_categorical("distill.rank", [5, 10, 20])
        trial.suggest_float("distill.alpha", 0.01, 10.0, log=True)
        trial.suggest_float("distill.similarity_lr", 0.005, 0.5, log=True)

    trial.suggest_int("distill.student_steps", 8, 40, log=True)
    trial.suggest_int("distill.target_epochs", 1, 10)
    trial.suggest_int("distill.max_start_epoch", 1, 3)
    trial.suggest_float("distill.start_rate", 0.02, 0.5, log=True)
    trial.suggest_float("distill.image_lr", 0.005, 0.5, log=True)
    trial.suggest_float("distill.text_lr", 0.005, 0.5, log=True)
    trial.suggest_float("distill.rate_lr", 0.002, 0.2, log=True)
    return {}
