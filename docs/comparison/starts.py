"""Search space of start pairs: how much their draw changes the score of plain matching, and which draw is best on val.

raydd sweep --config flickr8k.yaml --preset earlier --sweep.space docs/comparison/starts.py:space \
  --distill.images features --distill.range-pull 0
raydd sweep --config flickr8k.yaml --preset earlier --sweep.space docs/comparison/starts.py:space
"""

from typing import Any

from optuna.trial import Trial

FIRST: tuple[dict[str, Any], ...] = tuple({"distill.seed": seed} for seed in range(10))


def space(trial: Trial) -> dict[str, Any]:
    """Suggest the seed of the start pairs and minibatches; the other settings are those that `plain.py` found best."""
    trial.suggest_int("distill.seed", 0, 9)
    return {
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.student_steps": 16,
        "distill.minibatch": 50,
    }
