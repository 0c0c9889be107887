"""The stages in their order. Each makes what the store lacks, upstream included, and gives the opened result.

    pairs -> features -> experts -> distill -> evaluate

Plain functions of a `Config` and a `Store`, called alike by the command line, a notebook, a Ray worker and the tests.
"""

from raydd.sets.read import load_synthetic
from raydd.stages.distilling import (
    DistillPoint,
    distill,
    final_synthetic,
    synthetic_record,
)
from raydd.stages.evaluating import evaluate, full_scores, selected_scores, synthetic_scores
from raydd.stages.experts import experts, missing_experts, opened_experts, train_expert
from raydd.stages.features import features, pairs, prepare
from raydd.stages.selecting import select
from raydd.stages.whole import run

__all__ = [
    "DistillPoint",
    "distill",
    "evaluate",
    "experts",
    "features",
    "final_synthetic",
    "full_scores",
    "load_synthetic",
    "missing_experts",
    "opened_experts",
    "pairs",
    "prepare",
    "run",
    "select",
    "selected_scores",
    "synthetic_record",
    "synthetic_scores",
    "train_expert",
]
