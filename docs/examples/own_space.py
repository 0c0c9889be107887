"""A search space of your own: the target epochs, and the outer learning rate of the images."""

from optuna.trial import Trial

FIRST = ({"distill.target_epochs": 7, "distill.image_lr": 0.05},)


def space(trial: Trial) -> dict[str, object]:
    """Suggest settings by their names; return the settings that are fixed without being searched."""
    trial.suggest_int("distill.target_epochs", 1, 10)
    trial.suggest_float("distill.image_lr", 0.005, 0.5, log=True)
    return {"distill.blend": "none"}
