"""raydd: multimodal dataset distillation, from image-caption pairs to a tuned synthetic set.

import raydd
from raydd import stages

work = raydd.open(raydd.load("flickr8k.yaml"))   # one run, everything it reads opened lazily and once
stages.run(work)                                 # makes what the store lacks, gives the scores
"""

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
    """The workbench of a run: its data, features, experts and students, each opened when it is first asked for.

    Args:
        config: all settings, of `raydd.load`; the defaults if there are none.
        store: where records are, or its folder or address; the one that `config.place` names if there is none.
        progress: told the name of the work, how much is done, and how much there is.
    """
    from raydd.place import open_store
    from raydd.protocols import open_workbench
    from raydd.store import Store

    config = config or load()
    if store is None:
        store = open_store(config.place)
    return open_workbench(config, store if isinstance(store, Store) else Store(store), progress)
