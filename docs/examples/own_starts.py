"""A search space of your own: the real pairs from which the distillation starts."""

from optuna.trial import Trial

FIRST = tuple({"distill.start": "random", "distill.seed": seed} for seed in range(10))


def space(trial: Trial) -> dict[str, object]:
    """Suggest how the start pairs are selected, and the seed that draws them."""
    trial.suggest_categorical("distill.start", ["random", "herding", "k-center"])
    trial.suggest_int("distill.seed", 0, 9)
    return {"distill.blend": "none"}
