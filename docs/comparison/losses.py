"""RepBlend and LoRS with the weighted BCE and with InfoNCE, all else equal: rows of losses.yaml."""

from raydd.distill.methods import find_method

REPBLEND_WBCE, REPBLEND_INFONCE, LORS_WBCE, LORS_INFONCE = (
    find_method(name).changed({"distill.loss": loss}) for name in ("repblend", "lors") for loss in ("wbce", "infonce")
)
