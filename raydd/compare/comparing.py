"""A comparison from its plan to its table: tunes each method by a sweep, then makes every row as a task of Ray."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from raydd.cluster.claims import Claimant, open_claims, share_making
from raydd.cluster.connect import cluster, outcomes
from raydd.cluster.worker_settings import settled, without_passwords
from raydd.compare.cells import Cell, Row, cell_of, is_made, is_tuned, make_row
from raydd.compare.table import write_comparison
from raydd.config import CompareConfig, Config
from raydd.cost.seconds import pixel_seconds, trial_seconds
from raydd.distill.methods import find_method
from raydd.distill.selections import SELECTIONS
from raydd.place import home, open_store, use_threads
from raydd.progress import silent
from raydd.protocols import Listings, Opened, Workbench, can_select, open_workbench, trial_settings
from raydd.ranges import as_name
from raydd.secrets_hidden import hide_password
from raydd.settings import flatten, to_yaml, with_file, with_settings
from raydd.store import Store, fingerprint
from raydd.terminal.progress import progress_on
from raydd.terminal.text import duration
from raydd.tuning.sweeping import run_sweep

_NAMED = 110  # characters of a sweep's name before its mark
RESTARTS = 2  # of a row whose process or node died
TUNED, AS_PUBLISHED, AS_GIVEN = "tuned", "published settings", ""
_NOT_SHARED = ("place.", "evaluate.", "pixels.", "sweep.", "compare.")  # what a sweep's trials do not depend on


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came out."""

    rows: Sequence[Row]
    failed: Mapping[str, str]
    """Rows that could not be made, with the reason."""
    files: Sequence[Path]


def run_comparison(config: Config, address: str, *, dry_run: bool, console: Console) -> Comparison | None:
    """Make the table of methods, going on from what the store and the studies have; None for a dry run.

    Args:
        config: as the user gave it; `compare.*` says what to compare, `sweep.*` how trials share the machine.
        address: Ray's, see `raydd.cluster.environment.ray_address`.
        dry_run: show the plan and stop.
        console: where to show everything.

    Raises:
        ConfigError: a method, a data set or a setting is not in order; told before anything is computed.
    """
    bases = _data_sets(config)
    store = open_store(config.place)
    planned = [cell for name, base in bases.items() for cell in _cells(base, name, {})]
    opened = Opened()
    with progress_on(console) as progress:
        works = [open_workbench(base, store, progress, opened) for base in bases.values()]
        for work, name in zip(works, bases, strict=True):
            budgets = [cell.config.distill.pairs for cell in planned if cell.data == name and cell.kind != "full"]
            work.require_enough_pairs(max(budgets, default=1))
        known = [work.is_prepared for work in works]
        if not dry_run:
            for work in works:
                work.prepare()

    def work_of(cell: Cell) -> Workbench[Any]:
        return open_workbench(cell.config, store, silent, opened)

    console.print(_plan(config, bases, planned, work_of, store, known=all(known) or not dry_run))
    if dry_run:
        return None
    folder = home(config.place) / "comparisons" / config.compare.name
    with cluster(address, home(config.place)):
        cells: list[Cell] = []
        for name, base in bases.items():
            tuned = _tune(base, name, address, console, folder)
            cells += _cells(base, name, tuned)
        rows, failed = _make(cells, work_of, opened, store, folder, console)
        files = write_comparison(rows, failed, folder)
    console.print(f"kept in {folder}: {', '.join(file.name for file in files)}", soft_wrap=True)
    return Comparison(rows, failed, files)


def _data_sets(config: Config) -> dict[str, Config]:
    """The settings of each data set under each protocol, by its name."""
    given = [with_file(config, file) for file in config.compare.data] or [config]
    bases = {}
    for base in given:
        name, settings = base.data.name or base.data.reader, {}
        if not trial_settings(base):  # trials would cost as much as the rows themselves
            name, settings = f"{name}, image encoder trained", {"compare.trials": 0}
        placed = settled(base, cpus=base.sweep.cpus, gpus=max(0.0, base.sweep.gpus))
        bases[name] = with_settings(placed, settings)
    return bases


def _cells(base: Config, data: str, tuned: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """All rows of a data set, the smallest budgets first; `tuned` are the settings found for each method."""
    cells = []
    for count in base.compare.pairs:
        for method in base.compare.methods:
            if not can_select(base, method):
                continue
            if base.compare.trials and is_tuned(method):
                cells.append(cell_of(base, method, data, count, TUNED, tuned.get(method, {})))
                if base.compare.published:
                    cells.append(cell_of(base, method, data, count, AS_PUBLISHED, find_method(method).published))
            else:
                cells.append(cell_of(base, method, data, count, AS_GIVEN, {}))
    return list(dict.fromkeys(cells))  # full data has no budget, and comes once


def _tune(base: Config, data: str, address: str, console: Console, folder: Path) -> dict[str, Mapping[str, Any]]:
    """The best settings of each method that is tuned, by a sweep at the first number of pairs; kept as YAML too."""
    if not base.compare.trials:
        return {}
    found = {}
    for method in filter(is_tuned, base.compare.methods):
        result = run_sweep(_sweep_of(base, method, data), address, dry_run=False, console=console)
        found[method] = dict(result.settings) if result else {}
        settings = cell_of(base, method, data, base.compare.pairs[0], TUNED, found[method]).config
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{as_name(f'{data}-{_slug(method)}')}.yaml").write_text(to_yaml(settings), encoding="utf-8")
    return found


def _sweep_of(base: Config, method: str, data: str) -> Config:
    """The sweep that tunes a method. Its name holds what all trials share, so changed settings begin another one."""
    config = cell_of(base, method, data, base.compare.pairs[0], TUNED, {}).config
    shared = {name: value for name, value in flatten(config).items() if not name.startswith(_NOT_SHARED)}
    del shared["distill.images"]
    mark = fingerprint("compare", 1, shared, {})[:6]
    return with_settings(
        dataclasses.replace(config, compare=CompareConfig()),
        {
            "sweep.name": f"{as_name(f'{base.compare.name}-{data}-{_slug(method)}')[:_NAMED]}-{mark}",
            "sweep.space": find_method(method).space,
            "sweep.trials": base.compare.trials,
            "sweep.finalists": 0,
            "sweep.drawn_again": 0,
            "sweep.objectives": ("r_mean",),
        },
    )


def _slug(method: str) -> str:
    """A method's name fit for a file's: of one's own, FILE.py:NAME or module:NAME, without the folder."""
    return Path(method).name.replace(":", "-")


WorkOf = Callable[[Cell], Workbench[Any]]


def _make(
    cells: Sequence[Cell], work_of: WorkOf, opened: Opened, store: Store, folder: Path, console: Console
) -> tuple[list[Row], dict[str, str]]:
    """Make all rows side by side; the table is written anew after each."""
    rows = {cell: make_row(cell, work_of(cell)) for cell in cells if is_made(cell, work_of(cell))}
    failed: dict[str, str] = {}
    work = {cell: _seconds(cell, work_of(cell)) for cell in cells if cell not in rows}
    if any(map(math.isnan, work.values())):
        work = dict.fromkeys(work, 1.0)  # each counts the same
    claims = open_claims(store.root)
    shared = {cell: dataclasses.replace(cell, config=without_passwords(cell.config)) for cell in work}
    waiting = {_task(cell).remote(shared[cell], opened.listings, claims): cell for cell in work}
    with _telling(work, console) as ended:
        for cell, row, reason in outcomes(waiting):
            if reason:
                failed[f"{cell.name}, {cell.data}, {cell.pairs} pairs"] = reason
                console.print(f"{cell.name}, {cell.pairs} pairs failed: {reason}", markup=False)
            else:
                rows[cell] = row
            ended(cell, row)
            write_comparison([rows[cell] for cell in cells if cell in rows], failed, folder)
    return [rows[cell] for cell in cells if cell in rows], failed


def _task(cell: Cell) -> Any:
    sweep = cell.config.sweep
    # A process of its own for each row, so that its peak of memory is its own.
    return ray.remote(num_cpus=sweep.cpus, num_gpus=max(0.0, sweep.gpus), max_calls=1, max_retries=RESTARTS)(
        compare_cell
    )


def compare_cell(cell: Cell, listings: Listings, claims: Any) -> Row:
    """Make one row; runs in a Ray worker. What it shares with other rows is made once.

    Args:
        cell: what to make.
        listings: the data sets that the driver has read.
        claims: handle of the actor of `raydd.cluster.claims`.
    """
    config = cell.config
    use_threads(config.place)
    with Claimant(claims, f"{cell.name} {cell.data} {cell.pairs}".strip()) as claimant:
        work = open_workbench(config, open_store(config.place), claimant.progress, Opened(listings))
        if cell.method in SELECTIONS:
            # Selections of one size or another share warm-ups: one of them makes all at a time.
            with claimant.waiting_for(f"selections of {cell.data}"):
                for seed in range(config.evaluate.seeds):
                    work.select(cell.method, cell.pairs, seed)
        else:
            share_making(work, claimant)
        return make_row(cell, work)


@contextlib.contextmanager
def _telling(work: Mapping[Cell, float], console: Console) -> Iterator[Any]:
    """Tell each row's end, and the time left by the work that rows were estimated to be."""
    done, total = 0.0, max(1, round(sum(work.values())))
    count = 0
    with progress_on(console) as progress:

        def ended(cell: Cell, row: Row | None) -> None:
            nonlocal done, count
            done, count = done + work[cell], count + 1
            progress("rows, weighed by their work", min(total, round(done)), total)
            if row is not None:
                mean = sum(row.seeds["r_mean"]) / len(row.seeds["r_mean"])
                console.print(
                    f"{cell.name}, {cell.pairs} pairs: r_mean {mean:.2f} ({count}/{len(work)})", highlight=False
                )

        yield ended


def _seconds(cell: Cell, work: Workbench[Any]) -> float:
    """What a row may take on one core, experts that others share not counted; unknown without a cache, and on a GPU."""
    config, widths = cell.config, work.feature_widths
    if widths is None or config.sweep.gpus:
        return math.nan
    if cell.kind == "synthetic":
        return trial_seconds(config, *widths) + pixel_seconds(config)
    return trial_seconds(with_settings(config, {"distill.steps": 0}), *widths)


def _plan(
    config: Config,
    bases: Mapping[str, Config],
    cells: Sequence[Cell],
    work_of: WorkOf,
    store: Store,
    *,
    known: bool,
) -> Table:
    """The plan for the terminal; times and what is there are known once the features are."""
    compare = config.compare
    table = Table(show_header=False, box=None, pad_edge=False, title=f"comparison {compare.name}", title_justify="left")
    tuned_on = [name for name, base in bases.items() if base.compare.trials]
    tuned = [method for method in compare.methods if is_tuned(method)] if tuned_on else []
    table.add_row("data", ", ".join(bases))
    made = ", ".join(dict.fromkeys(cell.method for cell in cells))
    table.add_row("rows", f"{len(cells)}: {made}; budgets {', '.join(map(str, compare.pairs))}")
    if tuned:
        trials = f"{compare.trials} trials each of {', '.join(tuned)} at {compare.pairs[0]} pairs, chosen on val"
        table.add_row("tuning", f"{trials}, for {' and '.join(tuned_on)}")
    for name, base in bases.items():
        if left_out := [method for method in compare.methods if not can_select(base, method)]:
            table.add_row(
                "left out", f"{', '.join(left_out)}, for {name}: they choose by features that training changes"
            )
        if compare.trials and not base.compare.trials:
            table.add_row("not tuned", f"{name}: methods run as the settings say, since a trial takes as long as a row")
    table.add_row("students", f"{compare.choice}, {config.evaluate.seeds} seeds, {config.evaluate.split}")
    if known:
        left = [cell for cell in cells if not is_made(cell, work_of(cell))]
        seconds = sum(_seconds(cell, work_of(cell)) for cell in left)
        tuning = sum(
            compare.trials * trial_seconds(cell.config, *(work_of(cell).feature_widths or (0, 0)))
            for cell in cells
            if cell.method in tuned and cell.variant == TUNED and cell.pairs == compare.pairs[0] + 1
        )
        table.add_row("there", f"{len(cells) - len(left)} rows, settings found by earlier trials not counted")
        expected = "unknown" if math.isnan(seconds) else f"about {duration(seconds + tuning)} of one core"
        table.add_row("time", f"{expected}, experts not counted")
    table.add_row("store", hide_password(store.root))
    return table
