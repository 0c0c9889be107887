"""Runs a sweep for `raydd sweep`, `python raydd/sweep.py` and `ray submit CLUSTER.yaml raydd/sweep.py`.

`ray submit` copies only this file to the cluster, so it imports the installed package. Without `--config`, the script
reads the settings in `sweep.yaml` next to it, if there is one; the cluster files put one there.
"""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raydd.config import Config

if TYPE_CHECKING:
    from rich.console import Console

    from raydd.tuning.results import SweepResult


def sweep(
    config: Config,
    *,
    dry_run: bool = False,
    retry_failed: bool = False,
    given: Collection[str] = (),
    console: "Console | None" = None,
) -> "SweepResult | None":
    """Search the settings. A sweep of the same name is continued, or extended to `sweep.trials`.

    Args:
        config: all settings; `sweep.*` says how to search, all trials share the others.
        dry_run: show the plan, stop and return None.
        retry_failed: run the failed trials of earlier commands again.
        given: names of settings that are not searched: all trials have the config's values. On the command line these
            are the settings given by flags.
        console: where to show the progress; None for standard output.

    Returns:
        The result, also stored in the folder `sweeps/NAME` of the home folder.

    Raises:
        ConfigError: the space, the study, the resources or the settings are invalid.
        TrialsError: trials failed one after another for the same reason.
    """
    from raydd.cluster.environment import prepare_environment, ray_address

    address = ray_address(config.place.ray)
    prepare_environment(address)
    from raydd.terminal.console import open_console

    console = console or open_console()
    if not dry_run:
        from raydd.preflight import require_ready

        output = console
        require_ready(config, "sweep", lambda text: output.print(text, markup=False, soft_wrap=True))
    from raydd.terminal.busy import busy_on

    with busy_on(console, "loading Ray, Optuna and MLflow"):
        from raydd.tuning.sweeping import run_sweep

    return run_sweep(config, address, dry_run=dry_run, retry_failed=retry_failed, given=given, console=console)


def enqueue(config: Config, file: Path, *, given: Collection[str] = (), console: "Console | None" = None) -> None:
    """Queue the user's own trials for the sweep `sweep.name`, whether it runs, was interrupted, or does not exist yet.

    They come after the trials that wait already, such as the space's first settings.

    Args:
        config: all settings, as for `sweep`.
        file: YAML with a list of trials, each with dotted settings within the space's ranges; the sampler draws the
            other settings.
        given: as for `sweep`.
        console: where to report; None for standard output.

    Raises:
        ConfigError: the file, the space or the settings are invalid.
    """
    from raydd.cluster.environment import prepare_environment, ray_address

    prepare_environment(ray_address(config.place.ray))
    from raydd.terminal.console import open_console
    from raydd.tuning.sweeping import enqueue_trials

    enqueue_trials(config, file, given=given, console=console or open_console())


def command_line(arguments: Sequence[str], settings_file: Path) -> list[str]:
    """Return the command line for the script's arguments, with this settings file unless they name one."""
    names_config = any(argument == "--config" or argument.startswith("--config=") for argument in arguments)
    config_flags = [] if names_config or not settings_file.is_file() else ["--config", str(settings_file)]
    return ["sweep", *config_flags, *arguments]


if __name__ == "__main__":
    from raydd.cli import main

    sys.exit(main(command_line(sys.argv[1:], Path(__file__).with_name("sweep.yaml"))))
