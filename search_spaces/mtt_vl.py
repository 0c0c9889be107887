"""MTT-VL: trajectory length and learning rates. The settings that define the method are fixed."""

from typing import Any

from optuna.trial import Trial

from search_spaces._trajectories import LONGER, OURS, PUBLISHED, suggest_trajectory

FIRST: tuple[dict[str, Any], ...] = (OURS, LONGER, PUBLISHED)


def space(trial: Trial) -> dict[str, Any]:
    """Suggest the settings of one trial."""
    suggest_trajectory(trial)
    return {
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "infonce",
        "distill.gradient": "exact",
        "distill.minibatch_order": "random",
    }
