"""Runs a comparison from its plan to its table."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from raydd.cluster.connect import cluster, require_room
from raydd.cluster.gpus import held, wanted_gpus
from raydd.cluster.worker_settings import settled
from raydd.compare.making import gpus_per_set, make_rows
from raydd.compare.plan_table import plan_table
from raydd.compare.plans import FULL, RowPlan, configs_by_data, row_plans
from raydd.compare.rows import Row
from raydd.compare.table import write_comparison
from raydd.compare.tuned_rows import tune
from raydd.config import Config
from raydd.errors import ConfigError
from raydd.place import home, open_store
from raydd.progress import silent
from raydd.protocols import Opened, Workbench, open_workbench
from raydd.settings import with_settings
from raydd.terminal.progress import progress_on
from raydd.tuning.preparing import prepare, usable_gpus


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison."""

    rows: Sequence[Row]
    failed: Mapping[str, str]
    """Rows and sets that could not be made, with the reason."""
    files: Sequence[Path]


def run_comparison(config: Config, address: str, *, dry_run: bool, console: Console) -> Comparison | None:
    """Make the table of methods, reusing results that the store and the studies already have; None for a dry run.

    Args:
        config: the user's settings; `compare.*` says what to compare, `sweep.*` how trials share the machine.
        address: Ray's address, see `raydd.cluster.environment.ray_address`.
        dry_run: show the plan and stop.
        console: where to show the plan, progress and results.

    Raises:
        ConfigError: a method, a data set or a setting is invalid; raised before anything is computed.
    """
    store, opened = open_store(config.place), Opened()
    say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    with contextlib.ExitStack() as stack:
        if address != "local":  # connect first, to find out which GPUs the cluster has
            stack.enter_context(cluster(address, home(config.place), say))
        bases = {name: _on_workers(base, address) for name, base in configs_by_data(config).items()}
        planned = [plan for name, base in bases.items() for plan in row_plans(base, name)]
        with progress_on(console) as progress:
            works = [open_workbench(base, store, progress, opened) for base in bases.values()]
            for work, name in zip(works, bases, strict=True):
                budgets = [plan.config.distill.pairs for plan in planned if plan.data == name and plan.kind != FULL]
                if (most := max(budgets, default=1)) > len(work.data.train):
                    raise ConfigError(
                        f"compare.pairs asks for {most} pairs (one more where no similarity matrix is learned), but "
                        f"train of {name} has {len(work.data.train)} images. Lower compare.pairs."
                    )
            prepared = [work.is_prepared for work in works]
            if not dry_run:
                stack.enter_context(cluster(address, home(config.place), say))
                for work in works:
                    stack.enter_context(usable_gpus(work.config, console, dry_run=False))
                    require_room(work.config.sweep.cpus, gpus_per_set(work.config.sweep), held())
                    prepare(work, address)

        def work_of(plan: RowPlan) -> Workbench[Any]:
            return open_workbench(plan.config, store, silent, opened)

        console.print(plan_table(config, bases, planned, work_of, store, features_cached=all(prepared) or not dry_run))
        if dry_run:
            return None
        folder = home(config.place) / "comparisons" / config.compare.name
        plans, failed = tune(planned, address, console, folder)
        rows = make_rows(plans, failed, work_of, opened, store, folder, console)
        files = write_comparison(rows, failed, folder)
    console.print(f"kept in {folder}: {', '.join(file.name for file in files)}", soft_wrap=True)
    return Comparison(rows, failed, files)


def _on_workers(base: Config, address: str) -> Config:
    resolved = with_settings(base, {"sweep.gpus": wanted_gpus(base, address)})
    return settled(resolved, cpus=base.sweep.cpus, gpus=resolved.sweep.gpu_share)
