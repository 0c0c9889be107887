"""Methods with settings for 499 pairs: rows of tuned_499.yaml.

LoRS and RepBlend have the settings that 16 trials found for LoRS with 100 pairs, but minibatches of 50 pairs instead of
20. TESLA-VL has those that 16 trials found with 200 pairs.
"""

from raydd.distill.methods import find_method

_TUNED = "docs/comparison/tuned_199.py"

LORS = find_method(f"{_TUNED}:LORS_AS_99").changed({"distill.minibatch": 50})
REPBLEND = find_method("repblend").changed({**LORS.settings, "distill.blend": "beta"})
TESLA_VL = find_method(f"{_TUNED}:TESLA_VL").changed({"distill.range_pull": 0.0})
