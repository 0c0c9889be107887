"""LoRS: trajectory length, learning rates, the low-rank similarity matrix and the loss."""

from typing import Any

from optuna.trial import Trial

from search_spaces._trajectories import LONGER, OUR_SIMILARITY, OURS, PUBLISHED, suggest_similarity, suggest_trajectory

FIRST: tuple[dict[str, Any], ...] = (
    {**OURS, **OUR_SIMILARITY, "distill.loss": "infonce"},
    {**OURS, **OUR_SIMILARITY, "distill.loss": "wbce"},
    {**LONGER, **OUR_SIMILARITY, "distill.loss": "infonce"},
    {**PUBLISHED, **OUR_SIMILARITY, "distill.loss": "wbce"},
)


def space(trial: Trial) -> dict[str, Any]:
    """Suggest the settings of one trial."""
    suggest_trajectory(trial)
    suggest_similarity(trial)
    return {"distill.blend": "none", "distill.similarity": "low-rank", "distill.gradient": "constant-memory"}
