"""Search spaces of plain matching, narrower than `mtt_vl` and for longer trials, and a method for bytes.yaml.

raydd sweep --config flickr8k.yaml --preset earlier --sweep.space docs/comparison/plain.py:features \
  --distill.images features
raydd sweep --config flickr8k.yaml --preset earlier --sweep.space docs/comparison/plain.py:pixels
"""

from typing import Any

from optuna.trial import Trial

from raydd.distill.methods import Method

_START: dict[str, Any] = {
    "experts.lr": 0.2,
    "distill.student_steps": 8,
    "distill.target_epochs": 2,
    "distill.max_start_epoch": 1,
    "distill.image_lr": 0.1,
    "distill.text_lr": 0.2,
    "distill.start": "random",
    "distill.seed": 0,
}
_LONG: dict[str, Any] = {**_START, "distill.student_steps": 16}
FIRST: tuple[dict[str, Any], ...] = (
    _START,
    _LONG,
    {**_START, "experts.lr": 0.1, "distill.target_epochs": 6},
    {**_LONG, "experts.lr": 0.1, "distill.target_epochs": 6},
    {**_LONG, "distill.seed": 1},
    {**_LONG, "distill.start": "herding"},
    {**_LONG, "distill.seed": 2},
    {**_LONG, "distill.image_lr": 0.2, "distill.text_lr": 0.4},
    {**_LONG, "distill.start": "k-center"},
    {**_LONG, "distill.seed": 3},
    {**_LONG, "distill.start": "forgetting"},
    {**_LONG, "distill.seed": 4},
)
_PLAIN: dict[str, Any] = {"distill.blend": "none", "distill.similarity": "identity", "distill.minibatch": 50}
SHORT = Method(paper="raydd", settings={**_PLAIN, "distill.student_steps": 8, "distill.steps": 200})


def features(trial: Trial) -> dict[str, Any]:
    """Search plain matching for sets of features that may leave the range of real features."""
    _suggest(trial)
    return {**_PLAIN, "distill.range_pull": 0.0}


def pixels(trial: Trial) -> dict[str, Any]:
    """Search plain matching for sets of features that pixels can reproduce."""
    _suggest(trial)
    return _PLAIN


def _suggest(trial: Trial) -> None:
    """Suggest learning rates, student steps, target epochs, start epochs and start pairs."""
    trial.suggest_categorical("experts.lr", [0.1, 0.2, 0.4])
    trial.suggest_categorical("distill.student_steps", [8, 16])
    trial.suggest_int("distill.target_epochs", 1, 6, log=True)
    trial.suggest_int("distill.max_start_epoch", 1, 3)
    trial.suggest_float("distill.image_lr", 0.03, 0.3, log=True)
    trial.suggest_float("distill.text_lr", 0.05, 0.5, log=True)
    trial.suggest_categorical("distill.start", ["random", "herding", "k-center", "forgetting"])
    trial.suggest_int("distill.seed", 0, 9)
