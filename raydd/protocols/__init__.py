"""The workbenches of a run: one class per protocol, which decides what experts and students train."""

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
    """Return the workbench of a run. Whatever it reads is opened on first use, and only once.

    Args:
        config: all settings.
        store: where records are read and written.
        progress: called with the progress of each piece of work.
        opened: what another workbench of the same process has opened, for sharing it.
    """
    return PROTOCOLS[config.distill.protocol](config, store, progress, opened or Opened())


def changed(work: Workbench[Any], settings: Mapping[str, Any]) -> Workbench[Any]:
    """Return a workbench with changed settings; it shares with this one everything that they do not affect."""
    return open_workbench(with_settings(work.config, settings), work.store, work.progress, work.opened)


def can_select(config: Config, method: str) -> bool:
    """Return whether a row of this name can be made: all selections except random need cached image features."""
    return method in ("random", *PROTOCOLS[config.distill.protocol].selections) or method not in SELECTIONS


def cached(config: Config) -> Collection[str]:
    """Return what is encoded in advance under these settings, as kinds of `raydd.data.shards_of`."""
    return PROTOCOLS[config.distill.protocol].cached


def trains(config: Config) -> str:
    """Return what experts and students train under these settings, in words."""
    return PROTOCOLS[config.distill.protocol].trains


def trial_settings(config: Config) -> dict[str, Any]:
    """Return the settings that a trial has in addition to those of its search space.

    They select the cheapest form of the distillation that still ranks settings. A trial's students are scored after
    their last epoch, so that trials of one study are comparable regardless of `evaluate.*`.
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
