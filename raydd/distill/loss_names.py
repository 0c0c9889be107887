"""The names of the losses. This module does not import torch, so that settings can be checked before torch loads.

A loss is one of raydd's (`raydd.distill.losses.LOSSES`), or a user's own as `FILE.py:NAME` or `module:NAME`.
"""

from typing import Any

from raydd.errors import ConfigError, nearest
from raydd.outside import outside

LOSS_NAMES = ("infonce", "wbce", "bce")


def own_loss(name: str, setting: str) -> Any:
    """Load a user's own loss, a function or a `Loss`, by running its file as code; None for one of raydd's losses.

    Args:
        name: name of the loss.
        setting: the setting that names it, for error messages.

    Raises:
        ConfigError: there is no such loss, or the named object cannot be called.
    """
    if name in LOSS_NAMES:
        return None
    if ":" not in name:
        raise ConfigError(
            f"{setting} {name!r} is unknown. {nearest(name, LOSS_NAMES)} For your own, use FILE.py:NAME or module:NAME."
        )
    loss = outside(name, setting)
    if not callable(loss):
        raise ConfigError(
            f"{setting} {name} is a {type(loss).__name__}, but must be a function of logits and similarity, or a "
            "raydd.distill.losses.Loss. Name one of these."
        )
    return loss
