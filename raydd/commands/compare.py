"""Compare methods in one table: each is tuned with the same number of trials and scored by the same students.

The table also shows the cost of each method. It is written after every set, as compare.md, compare.csv and compare.html
in the folder comparisons/NAME of `place.home`. Run the same command again to continue an interrupted comparison.
"""

from dataclasses import dataclass

from raydd import cli


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Compare methods."""

    dry_run: bool = False
    """Show the plan (rows, trials, time) and stop."""


def main(options: Options) -> int:
    """Make the table. Returns exit code 1 if a row failed."""
    from raydd.cluster.environment import prepare_environment, ray_address
    from raydd.terminal.console import open_console

    address, console = ray_address(options.settings.place.ray), open_console()
    prepare_environment(address)
    if not options.dry_run:
        from raydd.preflight import require_ready

        require_ready(options.settings, "compare", lambda text: console.print(text, markup=False, soft_wrap=True))
    from raydd.compare.comparing import run_comparison

    result = run_comparison(options.settings, address, dry_run=options.dry_run, console=console)
    return 1 if result is not None and result.failed else 0
