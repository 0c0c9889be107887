"""Watch a running sweep from another terminal or over ssh: its trials, with their scores and loss curves."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.live import Live

from raydd import cli
from raydd.ranges import Between, require
from raydd.terminal.console import open_console

_EVERY = Between(0.1, 86_400)


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """The sweep `sweep.name`, by default the latest, as its study and MLflow report it."""

    defaults: ClassVar[Mapping[str, Any]] = {"sweep.name": "latest"}
    every: float = 5.0
    """Seconds between two updates [5]."""
    rows: int = 20
    """Number of trials to show: running trials first, then the latest [20]."""


def main(options: Options) -> int:
    """Show the sweep until Ctrl-C, or once if the output is not a terminal."""
    from raydd.place import mlflow_address, study_address
    from raydd.report.watching import sweep_status
    from raydd.tuning.study import load_study, sweep_named

    require(_EVERY.hold(options.every), "--every", options.every, f"{_EVERY} seconds")
    place, console = options.settings.place, open_console()
    name = sweep_named(options.settings.sweep.name, study_address(place))
    study, mlflow_uri = load_study(name, study_address(place)), mlflow_address(place)
    if not console.is_terminal:
        console.print(sweep_status(study, mlflow_uri, options.rows))
        return 0
    with Live(sweep_status(study, mlflow_uri, options.rows), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(options.every)
                live.update(sweep_status(study, mlflow_uri, options.rows), refresh=True)
        except KeyboardInterrupt:
            return 0
