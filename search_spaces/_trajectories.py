"""Shared parts of the search spaces of all trajectory matching methods, so that all have the same ranges."""

from typing import Any

from optuna.trial import Trial

from raydd.config import Config
from raydd.distill.methods.method import FLICKR30K_100, SIMILARITY, Method
from raydd.presets import PRESETS
from raydd.settings import flatten
from search_spaces._students import suggest_students

_SEARCHED = (
    *("experts.lr", "distill.student_steps", "distill.minibatch", "distill.target_epochs", "distill.max_start_epoch"),
    *("distill.start_rate", "distill.image_lr", "distill.text_lr", "distill.rate_lr", "students.weight_decay"),
)
# raydd's defaults; the former defaults with more student steps and today's weight decay, good in manual trials; and the
# published settings that apply to features (Flickr30k, 100 pairs).
OURS: dict[str, Any] = {name: flatten(Config())[name] for name in _SEARCHED}
LONGER: dict[str, Any] = {
    **OURS,
    **{name: value for name, value in PRESETS["earlier"].settings.items() if name in _SEARCHED},
    "distill.student_steps": 8,
    "distill.minibatch": 50,
    "students.weight_decay": OURS["students.weight_decay"],
}
PUBLISHED: dict[str, Any] = {**LONGER, **FLICKR30K_100}
MINIBATCHES = [0, 20, 50]  # raydd's share of the pairs; as published; half of 99
OUR_SIMILARITY: dict[str, Any] = {**SIMILARITY, "distill.similarity_lr": 0.05}
FIRST_WITH_SIMILARITY: tuple[dict[str, Any], ...] = (
    {**OURS, **OUR_SIMILARITY, "distill.loss": "infonce"},
    {**OURS, **OUR_SIMILARITY, "distill.loss": "wbce"},
    {**LONGER, **OUR_SIMILARITY, "distill.loss": "infonce"},
    {**PUBLISHED, **OUR_SIMILARITY, "distill.loss": "wbce"},
)


def suggest_trajectory(trial: Trial) -> None:
    """Suggest the length of trajectories, all learning rates, and the scored students' settings."""
    trial.suggest_categorical("experts.lr", [0.1, 0.2, 0.4])
    trial.suggest_int("distill.student_steps", 4, 16, log=True)
    trial.suggest_categorical("distill.minibatch", MINIBATCHES)
    trial.suggest_int("distill.target_epochs", 1, 5, log=True)
    trial.suggest_int("distill.max_start_epoch", 1, 2)
    suggest_rates(trial)


def suggest_rates(trial: Trial) -> None:
    """Suggest the learning rates of students and pairs, and the scored students' settings."""
    trial.suggest_float("distill.start_rate", 0.02, 1.0, log=True)
    trial.suggest_float("distill.image_lr", 0.02, 0.5, log=True)
    trial.suggest_float("distill.text_lr", 0.02, 0.5, log=True)
    trial.suggest_float("distill.rate_lr", 0.005, 0.1, log=True)
    suggest_students(trial)


def suggest_similarity(trial: Trial) -> None:
    """Suggest the low-rank similarity matrix and the loss: LoRS publishes both losses, as wBCE and eNCE."""
    trial.suggest_categorical("distill.loss", ["infonce", "wbce"])
    suggest_low_rank(trial)


def suggest_low_rank(trial: Trial) -> None:
    """Suggest the low-rank similarity matrix."""
    trial.suggest_categorical("distill.rank", [5, 10, 20])
    trial.suggest_float("distill.alpha", 0.01, 10.0, log=True)
    trial.suggest_float("distill.similarity_lr", 0.005, 0.5, log=True)


def without_loss(method: Method) -> dict[str, Any]:
    """Return a method's settings without its loss, which `suggest_similarity` searches."""
    return {name: value for name, value in method.settings.items() if name != "distill.loss"}
