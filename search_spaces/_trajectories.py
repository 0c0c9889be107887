"""Shared parts of the search spaces of all trajectory matching methods, so that all have the same ranges."""

from typing import Any

from optuna.trial import Trial

from raydd.distill.methods.method import FLICKR30K_100, SIMILARITY
from search_spaces._students import OUR_DECAY, PUBLISHED_DECAY, suggest_students

# raydd's defaults; settings of manual trials, with more student steps on larger minibatches; and the published settings
# that apply to features (Flickr30k, 100 pairs).
OURS: dict[str, Any] = {
    "experts.lr": 0.4,
    "distill.student_steps": 4,
    "distill.minibatch": 0,
    "distill.target_epochs": 3,
    "distill.max_start_epoch": 1,
    "distill.start_rate": 0.04,
    "distill.image_lr": 0.13,
    "distill.text_lr": 0.05,
    "distill.rate_lr": 0.1,
    "students.weight_decay": OUR_DECAY,
}
LONGER: dict[str, Any] = {
    **OURS,
    "experts.lr": 0.2,
    "distill.student_steps": 8,
    "distill.minibatch": 50,
    "distill.target_epochs": 2,
    "distill.start_rate": 0.3,
    "distill.image_lr": 0.1,
    "distill.text_lr": 0.2,
    "distill.rate_lr": 0.02,
}
PUBLISHED: dict[str, Any] = {**LONGER, **FLICKR30K_100, "students.weight_decay": PUBLISHED_DECAY}
MINIBATCHES = [0, 20, 50]  # raydd's share of the pairs; as published; half of 99
OUR_SIMILARITY: dict[str, Any] = {**SIMILARITY, "distill.similarity_lr": 0.05}


def suggest_trajectory(trial: Trial) -> None:
    """Suggest the length of trajectories, all learning rates, and the scored students' settings."""
    trial.suggest_categorical("experts.lr", [0.1, 0.2, 0.4])
    trial.suggest_int("distill.student_steps", 4, 16, log=True)
    trial.suggest_categorical("distill.minibatch", MINIBATCHES)
    trial.suggest_int("distill.target_epochs", 1, 5, log=True)
    trial.suggest_int("distill.max_start_epoch", 1, 2)
    trial.suggest_float("distill.start_rate", 0.02, 1.0, log=True)
    trial.suggest_float("distill.image_lr", 0.02, 0.5, log=True)
    trial.suggest_float("distill.text_lr", 0.02, 0.5, log=True)
    trial.suggest_float("distill.rate_lr", 0.005, 0.1, log=True)
    suggest_students(trial)


def suggest_similarity(trial: Trial) -> None:
    """Suggest the low-rank similarity matrix and the loss: LoRS publishes both losses, as wBCE and eNCE."""
    trial.suggest_categorical("distill.loss", ["infonce", "wbce"])
    trial.suggest_categorical("distill.rank", [5, 10, 20])
    trial.suggest_float("distill.alpha", 0.01, 10.0, log=True)
    trial.suggest_float("distill.similarity_lr", 0.005, 0.5, log=True)
