"""The matching methods at the published settings that hold for features and pixels alike: rows of converged.yaml.

Next to them stand RepBlend and LoRS with InfoNCE instead of their loss, and plain matching.
"""

from typing import Any

from raydd.distill.methods import Method, find_method


def _published(name: str, **changes: Any) -> Method:
    method = find_method(name)
    changed = {f"distill.{setting}": value for setting, value in changes.items()}
    return Method(
        paper=method.paper, settings={**method.settings, **method.published, **changed}, protocol=method.protocol
    )


MTT_VL, TESLA_VL, LORS, REPBLEND = map(_published, ("mtt-vl", "tesla-vl", "lors", "repblend"))
LORS_INFONCE, REPBLEND_INFONCE = (_published(name, loss="infonce") for name in ("lors", "repblend"))
PLAIN = Method(
    paper="raydd",
    settings={
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.minibatch": 50,
        "distill.loss": "infonce",
        "distill.student_steps": 16,
        "distill.steps": 1000,
    },
)
