"""What experts and students train, decided in one place: a workbench for each protocol, over one base."""

from collections.abc import Collection, Mapping
from typing import Any

from raydd.config import Config
from raydd.distill.selections import SELECTIONS
from raydd.progress import Progress, silent
from raydd.protocols.base import Choosing, HeldOutSplit, Workbench
from raydd.protocols.encoder import EncoderWorkbench
from raydd.protocols.heads import HeadsWorkbench
from raydd.protocols.opened import Listings, Opened
from raydd.settings import with_settings
from raydd.store import Store

PROTOCOLS: Mapping[str, type[Workbench]] = {"heads": HeadsWorkbench, "encoder": EncoderWorkbench}


def open_workbench(
    config: Config, store: Store, progress: Progress = silent, opened: Opened | None = None
) -> Workbench[Any]:
    """The workbench of a run; what it reads is opened when it is first asked for, and once.

    Args:
        config: all settings.
        store: where records are read and written.
        progress: told of what is made.
        opened: of another workbench of the same process, to share what both read.
    """
    return PROTOCOLS[config.distill.protocol](config, store, progress, opened or Opened())


def changed(work: Workbench[Any], settings: Mapping[str, Any]) -> Workbench[Any]:
    """The workbench of other settings, which shares with this one all that they do not decide."""
    return open_workbench(with_settings(work.config, settings), work.store, work.progress, work.opened)


def can_select(config: Config, method: str) -> bool:
    """Whether a row of that name can be made: selections but random need cached image features."""
    return method in ("random", *PROTOCOLS[config.distill.protocol].selections) or method not in SELECTIONS


def cached(config: Config) -> Collection[str]:
    """What is encoded beforehand under these settings: kinds of `raydd.data.shards_of`."""
    return PROTOCOLS[config.distill.protocol].cached


def trains(config: Config) -> str:
    """What experts and students train under these settings, in words."""
    return PROTOCOLS[config.distill.protocol].trains


def trial_settings(config: Config) -> dict[str, Any]:
    """What a trial of a sweep sets beside its space: the cheapest form of the distillation that ranks settings.

    Its students are scored by their last epoch, so that trials of one study are comparable whatever `evaluate.*` says.
    """
    return {**PROTOCOLS[config.distill.protocol].trial_settings, "evaluate.choice": "last"}


__all__ = [
    "Choosing",
    "EncoderWorkbench",
    "HeadsWorkbench",
    "HeldOutSplit",
    "Listings",
    "Opened",
    "Workbench",
    "cached",
    "can_select",
    "changed",
    "open_workbench",
    "trains",
    "trial_settings",
]
