"""Train the expert trajectories that distillation reads. Trajectories in the store are reused."""

from dataclasses import dataclass
from typing import Literal

from rich.filesize import decimal

from raydd import cli
from raydd.ranges import require
from raydd.terminal.console import open_console


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Train the expert trajectories."""

    workers: int = 0
    """Number of Ray Train workers that share the trajectories; 0: train in this process, without Ray."""
    gpus: float | Literal["auto"] = "auto"
    """GPUs per worker, fractions allowed [auto]. auto: an equal share of the GPUs that Ray sees."""


def main(options: Options) -> int:
    """Train the trajectories and print their size."""
    from raydd.device import use_threads
    from raydd.place import open_store
    from raydd.protocols import open_workbench
    from raydd.terminal.progress import progress_on

    config = options.settings
    require(options.workers >= 0, "--workers", options.workers, "0 or more")
    if not config.distill.reads_experts:
        open_console().print(
            f"distill.objective {config.distill.objective} needs no experts: there is nothing to train."
        )
        return 0
    use_threads(config.place)
    store, console = open_store(config.place), open_console()
    with progress_on() as progress:
        work = open_workbench(config, store, progress)
        if options.workers:
            from trainables.experts import make_experts

            make_experts([work], workers=options.workers, gpus=options.gpus)
        experts = work.experts()
    epochs = [epoch for epoch in config.distill.expert_epochs if epoch]
    size = sum(len(experts.record.read(experts.name(0, epoch))) for epoch in epochs)
    console.print(
        f"{experts.count} experts, snapshots after epochs {epochs}: {decimal(size)} per trajectory. "
        f"Stored in {store.root}/{experts.record.folder}.",
        soft_wrap=True,
    )
    return 0
