"""The names of the losses. This module does not import torch, so that settings can be checked before torch loads.

A loss is one of raydd's (`raydd.distill.losses.LOSSES`), or a user's own as `FILE.py:NAME` or `module:NAME`.
"""

from typing import Any

from raydd.outside import find

LOSS_NAMES = ("infonce", "wbce", "bce")


def own_loss(name: str, setting: str) -> Any:
    """Load a user's own loss, a function or a `Loss`, by running its file as code; None for one of raydd's losses.

    Args:
        name: name of the loss.
        setting: the setting that names it, for error messages.

    Raises:
        ConfigError: there is no such loss, or the named object cannot be called.
    """
    return find(
        name,
        dict.fromkeys(LOSS_NAMES),
        setting,
        kind=None,
        expected="a function of logits and similarity, or a raydd.distill.losses.Loss",
    )
