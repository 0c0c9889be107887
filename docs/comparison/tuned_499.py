"""Methods with settings for 499 pairs: rows of tuned_499.yaml.

LoRS and RepBlend have the settings that 16 trials found for LoRS with 100 pairs, but minibatches of 50 pairs instead of
20. TESLA-VL has those that 16 trials found with 200 pairs.
"""

from collections.abc import Mapping
from typing import Any

from raydd.distill.methods import Method, find_method

_TUNED = "docs/comparison/tuned_199.py"


def _changed(name: str, settings: Mapping[str, Any]) -> Method:
    method = find_method(f"{_TUNED}:{name}")
    return Method(paper=method.paper, settings={**method.settings, **settings})


LORS = _changed("LORS_AS_99", {"distill.minibatch": 50})
REPBLEND = _changed("LORS_AS_99", {"distill.minibatch": 50, "distill.blend": "beta"})
TESLA_VL = _changed("TESLA_VL", {"distill.range_pull": 0.0})
