"""TESLA-VL: trajectory length and rates; what makes the method is fixed.

BCE is a mean over B x B entries of which B are positive: its gradient is about B times smaller than InfoNCE's, so the
students' rates may be larger.
"""

from typing import Any

from optuna.trial import Trial

from search_spaces._trajectories import OURS, PUBLISHED, suggest_trajectory

FIRST: tuple[dict[str, Any], ...] = ({**OURS, "distill.start_rate": 10.0}, PUBLISHED)


def space(trial: Trial) -> dict[str, Any]:
    """Suggest the settings of one trial."""
    suggest_trajectory(trial, rates=(0.1, 30.0))
    return {
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "bce",
        "distill.gradient": "constant-memory",
    }
