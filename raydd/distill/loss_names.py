"""Which names of losses there are; free of torch, so that settings can be checked before it loads.

A loss is one of the registry (`raydd.distill.losses.LOSSES`), or a user's own as `FILE.py:NAME` or `module:NAME`.
"""

from typing import Any

from raydd.errors import ConfigError, nearest
from raydd.outside import outside

LOSS_NAMES = ("infonce", "wbce", "bce")


def own_loss(name: str, setting: str) -> Any:
    """What a user's own loss is, which is run as code: a function or a `Loss`; None for a name of the registry.

    Args:
        name: the loss.
        setting: the setting that names it, for messages.

    Raises:
        ConfigError: there is no such loss, or what the name stands for cannot be called.
    """
    if name in LOSS_NAMES:
        return None
    if ":" not in name:
        raise ConfigError(
            f"{setting} {name!r} is unknown. {nearest(name, LOSS_NAMES)} Your own is FILE.py:NAME or module:NAME."
        )
    found = outside(name, setting)
    if not callable(found):
        raise ConfigError(
            f"{setting} {name} is a {type(found).__name__}, but must be a function of logits and similarity, or a "
            "raydd.distill.losses.Loss. Name one."
        )
    return found
