"""Encode a data set into the feature cache: every image once (train images in K augmented views), and every caption."""

import contextlib
from dataclasses import dataclass
from typing import Literal

from raydd import cli
from raydd.ranges import require
from raydd.terminal.console import open_console


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Make the feature cache."""

    workers: int = 0
    """Number of Ray workers that share the data set; 0: encode in this process, without Ray."""
    gpus: float | Literal["auto"] = "auto"
    """GPUs per worker, fractions allowed [auto]. auto: an equal share of the GPUs that Ray sees."""


def main(options: Options) -> int:
    """Make the record of features and print what it holds."""
    from raydd.device import use_threads
    from raydd.place import open_store
    from raydd.protocols import open_workbench
    from raydd.terminal.progress import progress_on

    config = options.settings
    require(options.workers >= 0, "--workers", options.workers, "0 or more")
    use_threads(config.place)
    store, console = open_store(config.place), open_console()
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(progress_on(console))
        work = open_workbench(config, store, progress)
        if options.workers:
            from trainables.features import make_features, shared_by_workers

            work = stack.enter_context(shared_by_workers(work))
        for line in work.data.summary():
            console.print(line)
        if options.workers:
            make_features(work, workers=options.workers, gpus=options.gpus)
        work.prepare()
        console.print(work.prepared_in_words(), soft_wrap=True)
    return 0
