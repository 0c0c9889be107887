"""RepBlend and LoRS with the weighted BCE and with InfoNCE, all else equal: rows of losses.yaml."""

from raydd.distill.methods import Method, find_method


def _with_loss(name: str, loss: str) -> Method:
    method = find_method(name)
    return Method(paper=method.paper, settings={**method.settings, "distill.loss": loss})


REPBLEND_WBCE, REPBLEND_INFONCE, LORS_WBCE, LORS_INFONCE = (
    _with_loss(name, loss) for name in ("repblend", "lors") for loss in ("wbce", "infonce")
)
