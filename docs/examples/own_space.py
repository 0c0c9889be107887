"""A search space of one's own: how far ahead to aim, and how fast."""

from optuna.trial import Trial

FIRST = ({"distill.target_epochs": 7, "distill.image_lr": 0.05},)


def space(trial: Trial) -> dict[str, object]:
    """Suggest settings by their own names; give back those that are set without being searched."""
    trial.suggest_int("distill.target_epochs", 1, 10)
    trial.suggest_float("distill.image_lr", 0.005, 0.5, log=True)
    return {"distill.blend": "none"}
