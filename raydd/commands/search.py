"""Search a folder of photographs by a text or an image, with a student trained in seconds on a synthetic set."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from raydd import cli
from raydd.errors import ConfigError
from raydd.ranges import require
from raydd.terminal.console import open_console


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """The query, and where to search."""

    query: tyro.conf.Positional[str] = field(default="")
    """A text, or the path of an image."""
    set: Path | None = None
    """Folder of the synthetic set, as `raydd run` prints it at its end."""
    folder: Annotated[Path, tyro.conf.arg(name="in")] = Path()
    """Folder of photographs, searched with its subfolders [the current folder]."""
    count: int = 10
    """Number of photographs to show [10]."""


def main(options: Options) -> int:
    """Print the nearest photographs."""
    if not options.query:
        raise ConfigError("QUERY is missing. Give a text, or the path of an image.")
    require(options.count > 0, "--count", options.count, "1 or more")
    if not options.set:
        raise ConfigError("--set is missing. Give the folder of a synthetic set, as `raydd run` prints it at its end.")
    from raydd.device import use_threads
    from raydd.export.searching import search
    from raydd.place import open_store
    from raydd.protocols import open_workbench
    from raydd.sets.read import open_set
    from raydd.terminal.progress import progress_on

    config, start_time = options.settings, time.monotonic()
    use_threads(config.place)
    synthetic_set = open_set(options.set)
    synthetic_set.provenance.require_encoders(config)
    with progress_on() as progress:
        work = open_workbench(config, open_store(config.place), progress)
        hits = search(synthetic_set, options.query, options.folder, work)
    console = open_console()
    table = Table(title=f"nearest to: {options.query}", title_justify="left", box=None)
    table.add_column("cosine", justify="right")
    table.add_column("photograph", overflow="fold")
    for hit in hits[: options.count]:
        table.add_row(f"{hit.cosine:.3f}", str(hit.path))
    console.print(table)
    seconds = time.monotonic() - start_time
    console.print(
        f"{len(hits)} photographs searched by a student of {synthetic_set.title} in {seconds:.1f} s", soft_wrap=True
    )
    return 0
