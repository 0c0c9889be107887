"""What the reference code's scripts for Flickr30k and 100 pairs share, LoRS's, TESLA-VL's and RepBlend's alike."""

from collections.abc import Mapping
from typing import Any

FLICKR30K_100: Mapping[str, Any] = {
    "experts.lr": 0.1,
    "distill.student_steps": 8,
    "distill.minibatch": 20,
    "distill.target_epochs": 1,
    "distill.max_start_epoch": 2,
    "distill.start_rate": 0.1,
}
SIMILARITY: Mapping[str, Any] = {"distill.rank": 10, "distill.alpha": 3.0}
