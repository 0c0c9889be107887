"""The matching methods at their published settings, those that hold whatever is learned: rows of published.yaml.

Rows of converged.yaml are, besides, RepBlend and LoRS with InfoNCE in place of their loss, and plain matching.
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
        "distill.loss": "infonce",
        "distill.student_steps": 16,
        "distill.steps": 1000,
    },
)
