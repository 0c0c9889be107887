"""Search the settings with Ray Tune and Optuna. The same command continues a sweep; with more trials, it extends it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from raydd import cli
from raydd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Search the settings."""

    dry_run: bool = False
    """Show the plan (trials, resources, existing records, time) and stop."""
    retry_failed: bool = False
    """Run failed trials again, with the same numbers."""
    enqueue: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """Queue your own trials and exit: a list of dotted settings in the space's ranges; other settings are drawn. A
    running sweep runs them after those that are queued already."""
    tell: Literal["stop", "pause", "go-on"] | None = None
    """Steer a sweep that runs elsewhere, and exit. stop: start no new trials, then run the finals; pause: start none
    until go-on. Running trials continue."""


def main(options: Options) -> int:
    """Run the sweep, queue trials for it, or steer it.

    Returns exit code 1 if no trial ran to completion, or if all finals failed.
    """
    chosen = {"--tell": options.tell, "--enqueue": options.enqueue, "--dry-run": options.dry_run}
    if len(given := [flag for flag, value in chosen.items() if value]) > 1:
        raise ConfigError(f"{' and '.join(given)} are given together, but each does its own work and exits. Give one.")
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
    return 0 if result is None or result.succeeded else 1
