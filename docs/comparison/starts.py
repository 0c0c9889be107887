"""The best plain setting from other start pairs: what the draw of a start is worth, and the best of several on val.

raydd sweep --config flickr8k.yaml --sweep.space docs/comparison/starts.py:space --distill.images features \
  --distill.range-pull 0
raydd sweep --config flickr8k.yaml --sweep.space docs/comparison/starts.py:space
"""

from typing import Any

from optuna.trial import Trial

FIRST: tuple[dict[str, Any], ...] = tuple({"distill.seed": seed} for seed in range(10))


def space(trial: Trial) -> dict[str, Any]:
    """Suggest the seed of the start pairs and minibatches; the rest is what `plain.py` found best."""
    trial.suggest_int("distill.seed", 0, 9)
    return {"distill.blend": "none", "distill.similarity": "identity", "distill.student_steps": 16}
