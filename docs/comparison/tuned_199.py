"""The methods with the settings that 16 trials each found for 199 pairs: rows of tuned_199.yaml.

The trials are those of `raydd compare --config docs/comparison/flickr8k.yaml --compare.pairs 199`.
"""

from collections.abc import Mapping
from typing import Any

from raydd.distill.methods import Method, find_method

_LONGER: Mapping[str, Any] = {
    "experts.lr": 0.2,
    "distill.student_steps": 8,
    "distill.minibatch": 50,
    "distill.target_epochs": 2,
}


def _found(name: str, settings: Mapping[str, Any]) -> Method:
    method = find_method(name)
    return Method(paper=method.paper, settings={**method.settings, **settings})


REPBLEND = _found("repblend", {"distill.loss": "wbce"})
MTT_VL = _found(
    "mtt-vl",
    {
        **_LONGER,
        "distill.image_lr": 0.09957154449065779,
        "distill.text_lr": 0.12367640502993213,
        "distill.start_rate": 0.2999999999999999,
        "students.weight_decay": 0.005745974698761191,
    },
)
LORS = _found(
    "lors",
    {
        **_LONGER,
        "distill.loss": "infonce",
        "distill.image_lr": 0.1,
        "distill.text_lr": 0.2,
        "distill.rate_lr": 0.02,
        "distill.start_rate": 0.3,
    },
)
TESLA_VL = _found(
    "tesla-vl",
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
