"""raydd: multimodal dataset distillation, from image-caption pairs to a tuned synthetic set.

import raydd
from raydd import stages

work = raydd.open(raydd.load("flickr8k.yaml"))   # one run; everything it reads is opened once, when needed
stages.run(work)                                 # computes what is missing from the store, returns the scores
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydd.code_version import VERSION
from raydd.config import Config
from raydd.progress import Progress, silent
from raydd.settings import load

if TYPE_CHECKING:
    from raydd.protocols import Workbench
    from raydd.store import Store

__version__ = VERSION
__all__ = ["Config", "load", "open"]


def open(
    config: Config | None = None, store: "Store | str | Path | None" = None, progress: Progress = silent
) -> "Workbench[Any]":
    """Open the workbench of a run: its data, features, experts and students, each loaded when it is first used.

    Args:
        config: all settings, from `raydd.load`; None for the defaults.
        store: the store of records, or its folder or address; None for the store that `config.place` names.
        progress: called with the name of the work, the amount done and the total amount.
    """
    from raydd.place import open_store
    from raydd.protocols import open_workbench
    from raydd.store import Store

    config = config or load()
    if not isinstance(store, Store):
        store = open_store(config.place if store is None else replace(config.place, store=os.fspath(store)))
    return open_workbench(config, store, progress)
