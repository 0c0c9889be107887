"""The methods with the settings that 16 trials each found for 199 pairs: rows of tuned_199.yaml.

The trials are those of `raydd compare --config docs/comparison/flickr8k.yaml --compare.pairs 199
--students.batch-size 128`.
"""

from collections.abc import Mapping
from typing import Any

from raydd.distill.methods import find_method

_LONGER: Mapping[str, Any] = {
    "experts.lr": 0.2,
    "distill.student_steps": 8,
    "distill.minibatch": 50,
    "distill.target_epochs": 2,
}

REPBLEND = find_method("repblend").changed({"distill.loss": "wbce"})
MTT_VL = find_method("mtt-vl").changed(
    {
        **_LONGER,
        "distill.image_lr": 0.09957154449065779,
        "distill.text_lr": 0.12367640502993213,
        "distill.start_rate": 0.2999999999999999,
        "students.weight_decay": 0.005745974698761191,
    },
)
LORS = find_method("lors").changed(
    {
        **_LONGER,
        "distill.loss": "infonce",
        "distill.image_lr": 0.1,
        "distill.text_lr": 0.2,
        "distill.rate_lr": 0.02,
        "distill.start_rate": 0.3,
    },
)
LORS_AS_99 = find_method("lors").changed(  # found for 99 pairs; better on val with 199 pairs too
    {
        "experts.lr": 0.1,
        "distill.student_steps": 8,
        "distill.minibatch": 20,
        "distill.max_start_epoch": 2,
        "distill.target_epochs": 1,
        "distill.alpha": 0.09328321009166245,
        "distill.image_lr": 0.051869077736306175,
        "distill.text_lr": 0.14226887180181322,
        "distill.similarity_lr": 0.10700404671575103,
        "distill.rate_lr": 0.05102472551963364,
        "distill.start_rate": 0.29985508951598533,
        "students.weight_decay": 0.0077833780601326745,
    },
)
TESLA_VL = find_method("tesla-vl").changed(
    {
        "experts.lr": 0.2,
        "distill.student_steps": 9,
        "distill.minibatch": 20,
        "distill.target_epochs": 1,
        "distill.image_lr": 0.49999999999999994,
        "distill.text_lr": 0.2713939983293675,
        "distill.start_rate": 0.6594484899898826,
        "students.weight_decay": 0.0005000000000000001,
    },
)
