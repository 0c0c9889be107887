"""A comparison from its plan to its table: tunes each method by a sweep, then makes every row as a task of Ray."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from raydd.cluster.claims import Claimant, open_claims, share_features, share_making
from raydd.cluster.connect import cluster, outcomes
from raydd.cluster.gpus import wanted_gpus
from raydd.cluster.graceful_exit import exit_waits
from raydd.cluster.worker_settings import for_workers, settled
from raydd.compare.rows import MadeSet, Row, RowPlan, is_made, is_tuned, make_set, plan_of
from raydd.compare.table import write_comparison
from raydd.config import CompareConfig, Config, SweepConfig
from raydd.cost.seconds import check_seconds, pixel_seconds, trial_seconds
from raydd.distill.methods import find_method
from raydd.distill.selections import SELECTIONS
from raydd.errors import ConfigError, TrialsError
from raydd.place import home, open_store, use_threads
from raydd.progress import silent
from raydd.protocols import Listings, Opened, Workbench, can_select, open_workbench, trial_settings
from raydd.ranges import RANGES, as_name
from raydd.secrets_hidden import hide_password
from raydd.settings import flatten, to_yaml, with_file, with_settings
from raydd.store import Store, fingerprint
from raydd.terminal.progress import progress_on
from raydd.terminal.text import duration
from raydd.tuning.busy import doing_on
from raydd.tuning.live import what_runs
from raydd.tuning.sweeping import look_at_cards, prepare, run_sweep

_NAMED = 110  # characters of a sweep's name before its mark
RESTARTS = 2  # of a row whose process or node died
TRIALS_SEED = int(RANGES["compare.sets"][1])  # after `distill.seed`, as far as no set's seed is
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
    store, opened = open_store(config.place), Opened()
    with contextlib.ExitStack() as stack:
        if address != "local":  # to know what GPUs it has
            stack.enter_context(cluster(address, home(config.place)))
        bases = _data_sets(config, address)
        planned = [plan for name, base in bases.items() for plan in _plans(base, name, {})]
        with progress_on(console) as progress:
            works = [open_workbench(base, store, progress, opened) for base in bases.values()]
            for work, name in zip(works, bases, strict=True):
                budgets = [plan.config.distill.pairs for plan in planned if plan.data == name and plan.kind != "full"]
                work.require_enough_pairs(max(budgets, default=1))
            known = [work.is_prepared for work in works]
            if not dry_run:
                stack.enter_context(cluster(address, home(config.place)))
                for work in works:
                    look_at_cards(work.config, address, console, dry_run=False)
                    prepare(work, address)

        def work_of(plan: RowPlan) -> Workbench[Any]:
            return open_workbench(plan.config, store, silent, opened)

        console.print(_plan(config, bases, planned, work_of, store, known=all(known) or not dry_run))
        if dry_run:
            return None
        folder = home(config.place) / "comparisons" / config.compare.name
        plans: list[RowPlan] = []
        failed: dict[str, str] = {}
        for name, base in bases.items():
            tuned, untuned = _tune(base, name, address, console, folder)
            failed |= {f"{Path(method).name}, {TUNED}, {name}": reason for method, reason in untuned.items()}
            plans += [plan for plan in _plans(base, name, tuned) if plan.variant != TUNED or plan.method not in untuned]
        rows = _make(plans, failed, work_of, opened, store, folder, console)
        files = write_comparison(rows, failed, folder)
    console.print(f"kept in {folder}: {', '.join(file.name for file in files)}", soft_wrap=True)
    return Comparison(rows, failed, files)


def _data_sets(config: Config, address: str) -> dict[str, Config]:
    """The settings of each data set under each protocol, by its name."""
    given = {file: with_file(config, file) for file in dict.fromkeys(config.compare.data)} or {"": config}
    bases, files = {}, {}
    for file, base in given.items():
        _require_distinct(base.compare.methods)
        name, settings = base.data.name or base.data.reader, {}
        if "distill.images" not in trial_settings(base):  # trials would cost as much as the rows themselves
            name, settings = f"{name}, image encoder trained", {"compare.trials": 0}
        if (first := files.setdefault(as_name(name), file)) != file:
            raise ConfigError(
                f"{first} and {file} of compare.data are both called {name!r}, and one table cannot tell them apart. "
                "Give other data another data.name; compare the same data with other settings under another "
                "compare.name."
            )
        placed = with_settings(base, {**settings, "sweep.gpus": wanted_gpus(base, address)})
        bases[name] = settled(placed, cpus=base.sweep.cpus, gpus=placed.sweep.gpu_share)
    return bases


def _require_distinct(methods: Sequence[str]) -> None:
    """Refuse two methods of one's own that have the same name, by which rows and files are told apart.

    Raises:
        ConfigError: naming the two.
    """
    known: dict[str, str] = {}
    for method in methods:
        if (first := known.setdefault(as_name(_slug(method)), method)) != method:
            raise ConfigError(
                f"{first} and {method} of compare.methods have the same name, and one table cannot tell them apart. "
                "Give one of the files another name."
            )


def _plans(base: Config, data: str, tuned: Mapping[str, Mapping[str, Any]]) -> list[RowPlan]:
    """All rows of a data set, the smallest budgets first; `tuned` are the settings found for each method."""
    plans = []
    for count in base.compare.pairs:
        for method in base.compare.methods:
            if not can_select(base, method):
                continue
            if base.compare.trials and is_tuned(method):
                plans.append(plan_of(base, method, data, count, TUNED, tuned.get(method, {})))
                if base.compare.published and find_method(method).published:
                    plans.append(plan_of(base, method, data, count, AS_PUBLISHED, find_method(method).published))
            else:
                plans.append(plan_of(base, method, data, count, AS_GIVEN, {}))
    return list(dict.fromkeys(plans))  # full data has no budget, and comes once


def _tune(
    base: Config, data: str, address: str, console: Console, folder: Path
) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """The best settings of each method that is tuned, by a sweep at the first number of pairs; kept as YAML too.

    And the methods whose trials give none, with the reason: the others are compared without them.
    """
    found: dict[str, Mapping[str, Any]] = {}
    failed: dict[str, str] = {}
    for method in filter(is_tuned, base.compare.methods if base.compare.trials else ()):
        try:
            found[method] = _best_settings(_sweep_of(base, method, data), address, console)
        except TrialsError as error:
            failed[method] = str(error)
            console.print(f"{Path(method).name} is not tuned: {error}", markup=False, soft_wrap=True)
            continue
        settings = plan_of(base, method, data, base.compare.pairs[0], TUNED, found[method]).config
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{as_name(f'{data}-{_slug(method)}')}.yaml").write_text(to_yaml(settings), encoding="utf-8")
    return found, failed


def _best_settings(sweep: Config, address: str, console: Console) -> Mapping[str, Any]:
    """The settings of a sweep's best trial.

    Raises:
        TrialsError: trials failed one after another for the same reason, or none went to its end.
    """
    result = run_sweep(sweep, address, dry_run=False, console=console)
    if result is None or result.best is None:
        reason = next(iter(result.failed.values()), "") if result else ""
        raise TrialsError(
            f"No trial of the sweep {sweep.sweep.name} went to its end{f' ({reason})' if reason else ''}. "
            "Put it right, or leave the method out of compare.methods."
        )
    return dict(result.settings)


def _sweep_of(base: Config, method: str, data: str) -> Config:
    """The sweep that tunes a method. Its name holds what all trials share, so changed settings begin another one."""
    config = plan_of(base, method, data, base.compare.pairs[0], TUNED, {}).config
    # Not a set's seed: settings chosen by a draw would favour that set of the tuned row.
    config = with_settings(config, {"distill.seed": config.distill.seed + TRIALS_SEED})
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


WorkOf = Callable[[RowPlan], Workbench[Any]]
Wanted = tuple[RowPlan, int]  # a row and the number of one of its sets


def _make(
    plans: Sequence[RowPlan],
    failed: dict[str, str],
    work_of: WorkOf,
    opened: Opened,
    store: Store,
    folder: Path,
    console: Console,
) -> list[Row]:
    """Make all sets of all rows side by side, noting those that fail; the table is written anew after each."""
    every = [(plan, number) for plan in plans for number in range(plan.sets)]
    made: dict[Wanted, MadeSet] = {}
    rows: dict[RowPlan, Row] = {}

    def take(plan: RowPlan, number: int, found: MadeSet) -> None:
        made[plan, number] = found
        rows[plan] = Row.of(plan, [made[plan, own] for own in range(plan.sets) if (plan, own) in made])

    for plan, number in every:
        if is_made(plan, number, work_of(plan)):
            take(plan, number, make_set(plan, number, work_of(plan)))
    work = {wanted: _seconds(wanted[0], work_of(wanted[0])) for wanted in every if wanted not in made}
    if not work:
        return [rows[plan] for plan in plans]
    if any(map(math.isnan, work.values())):
        work = dict.fromkeys(work, 1.0)  # each counts the same
    claims = open_claims(store.root)
    shared = {
        plan: dataclasses.replace(plan, config=for_workers(plan.config, _gpus(plan.config.sweep))) for plan, _ in work
    }
    # One function for all: Ray starts a function's tasks in their order, so that rows are made one after another.
    # A process of its own for each set, so that its peak of memory is its own.
    task = ray.remote(max_calls=1, max_retries=RESTARTS)(compare_set)
    waiting = {
        task.options(num_cpus=plan.config.sweep.cpus, num_gpus=_gpus(plan.config.sweep)).remote(
            shared[plan], number, opened.listings, claims
        ): (plan, number)
        for plan, number in work
    }
    with _telling(work, _job_of(plans[0].config), claims, console) as (ended, wait):
        for (plan, number), found, reason in outcomes(waiting, wait):
            if reason:
                failed[f"{plan.name}, {plan.data}, {plan.pairs} pairs, set {number}"] = reason
                console.print(f"{_told(plan, number)} failed: {reason}", markup=False)
            else:
                take(plan, number, found)
            ended((plan, number), found)
            write_comparison([rows[plan] for plan in plans if plan in rows], failed, folder)
    return [rows[plan] for plan in plans if plan in rows]


def _told(plan: RowPlan, number: int) -> str:
    """A set in words."""
    return f"{plan.name}, {plan.pairs} pairs{f', set {number}' if plan.sets > 1 else ''}"


def _gpus(sweep: SweepConfig) -> float:
    """GPUs of a set, whose need is not estimated: a whole one in place of a share by the memory of a trial."""
    return abs(sweep.gpu_share)


@exit_waits()
def compare_set(plan: RowPlan, number: int, listings: Listings, claims: Any) -> MadeSet:
    """Make one set of a row; runs in a Ray worker. What it shares with others is made once.

    Args:
        plan: the row.
        number: which of its sets.
        listings: the data sets that the driver has read.
        claims: handle of the actor of `raydd.cluster.claims`.
    """
    config = plan.config
    use_threads(config.place)
    with Claimant(claims, f"{_job_of(config)}: {plan.name} {plan.data} {plan.pairs} set {number}") as claimant:
        work = open_workbench(config, open_store(config.place), claimant.progress, Opened(listings))
        if plan.method in SELECTIONS:
            # Selections of one size or another share warm-ups: one of them makes all at a time.
            with claimant.waiting_for(f"selections of {plan.data}"):
                work.select(plan.method, plan.pairs, number)
        elif plan.kind == "synthetic":
            share_making(work, claimant)
        else:  # full data, whose few experts are not those of a distillation
            share_features(work, claimant)
        return make_set(plan, number, work)


def _job_of(config: Config) -> str:
    return f"comparison {config.compare.name}"


@contextlib.contextmanager
def _telling(
    work: Mapping[Wanted, float], job: str, claims: Any, console: Console
) -> Iterator[tuple[Callable[[Wanted, MadeSet | None], None], Callable[[], None]]]:
    """Tell each set's end, and meanwhile what is made, and the time left by the work that sets were estimated to be."""
    began, total, ended = time.monotonic(), sum(work.values()), list[Wanted]()

    def end(wanted: Wanted, found: MadeSet | None) -> None:
        ended.append(wanted)
        if found is not None:
            told = f"{_told(*wanted)}: r_mean {found.mean('r_mean'):.2f} ({len(ended)}/{len(work)})"
            console.print(told, highlight=False)

    with doing_on(console, f"{len(work)} sets") as show:

        def wait() -> None:
            done = sum(work[wanted] for wanted in ended)
            left = f", {duration((time.monotonic() - began) / done * (total - done))} left" if done else ""
            show(f"{len(ended)}/{len(work)} sets{left}; {what_runs(ray.get(claims.doing.remote(job)))}")

        yield end, wait


def _seconds(plan: RowPlan, work: Workbench[Any]) -> float:
    """What one of a row's sets may take on one core, shared experts apart; unknown without a cache, and on a GPU."""
    config, widths = plan.config, work.feature_widths
    if widths is None or config.sweep.gpu_share:
        return math.nan
    if plan.kind == "synthetic":
        checks = config.compare.checks * check_seconds(config, *widths)
        return trial_seconds(config, *widths) + pixel_seconds(config) + checks
    return trial_seconds(with_settings(config, {"distill.steps": 0}), *widths)


def _plan(
    config: Config,
    bases: Mapping[str, Config],
    plans: Sequence[RowPlan],
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
    made = ", ".join(dict.fromkeys(plan.method for plan in plans))
    table.add_row("rows", f"{len(plans)}: {made}; budgets {', '.join(map(str, compare.pairs))}")
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
    table.add_row("sets", f"{compare.sets} of each row, full data apart")
    table.add_row("students", f"{compare.choice}, {config.evaluate.seeds} of each set, {config.evaluate.split}")
    if known:
        every = [(plan, number) for plan in plans for number in range(plan.sets)]
        left = [(plan, number) for plan, number in every if not is_made(plan, number, work_of(plan))]
        seconds = sum(_seconds(plan, work_of(plan)) for plan, _ in left)
        tuning = sum(
            compare.trials * trial_seconds(plan.config, *(work_of(plan).feature_widths or (0, 0)))
            for plan in plans
            if plan.method in tuned and plan.variant == TUNED and plan.pairs == compare.pairs[0] + 1
        )
        table.add_row(
            "there", f"{len(every) - len(left)} of {len(every)} sets, settings found by earlier trials not counted"
        )
        expected = "unknown" if math.isnan(seconds) else f"about {duration(seconds + tuning)} of one core"
        table.add_row("time", f"{expected}, experts not counted")
    table.add_row("store", hide_password(store.root))
    return table
