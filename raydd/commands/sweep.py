"""Search the settings with Ray Tune and Optuna. The same command goes on where it was; more trials extend it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from raydd import cli


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Search the settings."""

    dry_run: bool = False
    """Show the plan (trials, resources, records already there, time) and stop."""
    retry_failed: bool = False
    """Run the failed trials of earlier commands again, under their numbers."""
    enqueue: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """Queue trials by hand and end: a list of dotted settings within the space's ranges; those left out are drawn. A
    running sweep takes them next."""
    tell: Literal["stop", "pause", "go-on"] | None = None
    """stop, pause or go-on: tell a sweep that runs elsewhere, and end. stop: no new trials, then the finals; pause:
    none until go-on. Running trials end as usual."""


def main(options: Options) -> int:
    """Run the sweep; the exit code is 1 if trials ran and none came through."""
    if options.tell:
        from raydd.place import study_address
        from raydd.tuning.steering import give_order
        from raydd.tuning.study import load_study

        give_order(load_study(options.settings.sweep.name, study_address(options.settings.place)), options.tell)
        return 0
    if options.enqueue:
        from raydd.sweep import enqueue

        enqueue(options.settings, options.enqueue, given=options.given)
        return 0
    from raydd.sweep import sweep

    result = sweep(options.settings, dry_run=options.dry_run, retry_failed=options.retry_failed, given=options.given)
    return 1 if result is not None and not result.settings else 0
