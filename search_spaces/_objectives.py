"""Shared parts of the search spaces of methods without trajectories."""

from typing import Any

from optuna.trial import Trial

from search_spaces._students import PUBLISHED_DECAY, suggest_students

OURS: dict[str, Any] = {
    "distill.steps": 300,
    "distill.image_lr": 0.1,
    "distill.text_lr": 0.2,
    "students.weight_decay": PUBLISHED_DECAY,
}


def suggest_learning(trial: Trial) -> None:
    """Suggest the steps, the outer learning rates, and the scored students' settings."""
    trial.suggest_int("distill.steps", 100, 1000, log=True)
    trial.suggest_float("distill.image_lr", 0.005, 0.5, log=True)
    trial.suggest_float("distill.text_lr", 0.005, 0.5, log=True)
    suggest_students(trial)
