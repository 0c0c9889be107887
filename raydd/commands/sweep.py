"""Search the settings with Ray Tune and Optuna. The same command goes on where it was; more trials extend it."""

from dataclasses import dataclass

from raydd import cli


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Search the settings."""

    dry_run: bool = False
    """Show the plan (trials, resources, records already there, time) and stop."""
    retry_failed: bool = False
    """Run the failed trials of earlier commands again, under their numbers."""


def main(options: Options) -> int:
    """Run the sweep; the exit code is 1 if trials ran and none came through."""
    from raydd.sweep import sweep

    result = sweep(options.settings, dry_run=options.dry_run, retry_failed=options.retry_failed)
    return 1 if result is not None and not result.settings else 0
