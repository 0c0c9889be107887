"""Check what a planned command needs, with one line for each check. The exit code is 1 if the command cannot start.

`raydd doctor sweep` also checks the search space, the study's database, MLflow and the GPUs of trials. `raydd doctor
compare` checks the same for each row and data set of a comparison.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table
from rich.text import Text

from raydd import cli
from raydd.terminal.console import open_console


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """The planned command."""

    plan: tyro.conf.Positional[Literal["run", "sweep", "compare"]] = field(default="run")
    """The command that is planned: run, sweep or compare [run]."""
    cluster: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """File of the cluster that will run the command (cluster/gpu.yaml): compares its Ray and Python with those here,
    and checks the places that the raydd.env next to it names."""


_STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def main(options: Options) -> int:
    """Make the checks and print them."""
    from raydd.checkup import examine
    from raydd.cluster.cluster_file import nodes_environment
    from raydd.terminal.progress import progress_on

    with nodes_environment(options.cluster), progress_on() as progress:
        checks = list(examine(options.settings, options.plan, options.cluster, progress))
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        table.add_row(Text(check.state, style=_STYLES[check.state]), check.name, check.text)
    console = open_console()
    console.print(table)
    missing = [check.name for check in checks if check.state == "missing"]
    name = {"compare": "comparison"}.get(options.plan, options.plan)
    console.print(f"The {name} cannot start: {', '.join(missing)}." if missing else f"The {name} can start.")
    return 1 if missing else 0
