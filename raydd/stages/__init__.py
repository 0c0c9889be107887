"""The stages, in order. Each makes whatever is missing from the store, also upstream, and returns the opened result.

    pairs -> features -> experts -> distill -> evaluate

Stages are plain functions of a workbench (`raydd.open`). The command line, notebooks, Ray workers and tests call them.
"""

from raydd.stages.distilling import (
    DistillPoint,
    collapse_over_steps,
    distill,
    final_synthetic,
    load_synthetic,
    records_of,
    synthetic_record,
)
from raydd.stages.evaluating import (
    full_scores,
    run,
    scores_of,
    scores_of_set,
    scores_record,
    selected_scores,
    synthetic_scores,
)
from raydd.stages.students import fit_rates, score_students

__all__ = [
    "DistillPoint",
    "collapse_over_steps",
    "distill",
    "final_synthetic",
    "fit_rates",
    "full_scores",
    "load_synthetic",
    "records_of",
    "run",
    "score_students",
    "scores_of",
    "scores_of_set",
    "scores_record",
    "selected_scores",
    "synthetic_record",
    "synthetic_scores",
]
