"""Train the expert trajectories that distillation reads; those in the store are reused."""

from dataclasses import dataclass
from typing import Literal

from rich.filesize import decimal

from raydd import cli
from raydd.terminal.console import open_console


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Train the expert trajectories."""

    workers: int = 0
    """Ray Train workers to share the trajectories among; 0 trains them in this process, without Ray."""
    gpus: float | Literal["auto"] = "auto"
    """GPUs of each worker, fractions allowed. auto: its part of those that Ray sees."""


def main(options: Options) -> int:
    """Make the trajectories and say how large they are."""
    from raydd.place import open_store, use_threads
    from raydd.protocols import open_workbench
    from raydd.terminal.progress import progress_on

    config = options.settings
    if not config.distill.reads_experts:
        open_console().print(
            f"distill.objective {config.distill.objective} reads no experts: there is nothing to train."
        )
        return 0
    use_threads(config.place)
    store, console = open_store(config.place), open_console()
    with progress_on() as progress:
        work = open_workbench(config, store, progress)
        if options.workers:
            from trainables.experts import make_experts

            make_experts([work], workers=options.workers, gpus=options.gpus)
        made = work.experts()
    epochs = [epoch for epoch in config.distill.expert_epochs if epoch]
    size = sum(len(made.record.read(made.name(0, epoch))) for epoch in epochs)
    console.print(
        f"{made.count} experts, snapshots after epochs {epochs}: {decimal(size)} a trajectory. "
        f"Kept in {store.root}/{made.record.folder}.",
        soft_wrap=True,
    )
    return 0
