"""Check whether the planned run fits on this machine, one line for each check; exit code 1 if it does not."""

from rich.table import Table
from rich.text import Text

from raydd import cli
from raydd.terminal.console import open_console

Options = cli.Options

_STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def main(options: cli.Options) -> int:
    """Make the checks and print them."""
    from raydd.checkup import examine
    from raydd.terminal.progress import progress_on

    with progress_on() as progress:
        checks = list(examine(options.settings, progress))
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        table.add_row(Text(check.state, style=_STYLES[check.state]), check.name, check.text)
    console = open_console()
    console.print(table)
    lacking = [check.name for check in checks if check.state == "missing"]
    console.print(f"The run cannot start: {', '.join(lacking)}." if lacking else "The run can start.")
    return 1 if lacking else 0
