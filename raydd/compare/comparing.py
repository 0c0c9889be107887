"""Runs a comparison from its plan to its table: tunes its rows by sweeps, then makes the sets as Ray tasks."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from raydd.cluster.claims import open_claims
from raydd.cluster.connect import cluster, outcomes
from raydd.cluster.gpus import wanted_gpus
from raydd.cluster.graceful_exit import exit_waits
from raydd.cluster.sharing import Shared, claiming_work, share_features, share_making
from raydd.cluster.worker_settings import for_workers, settled
from raydd.compare.rows import MadeSet, Row, RowPlan, is_made, is_tuned, make_set, plan_of
from raydd.compare.table import write_comparison
from raydd.config import CompareConfig, Config, SweepConfig
from raydd.cost.seconds import check_seconds, pixel_seconds, trial_seconds
from raydd.distill.methods import find_method
from raydd.distill.selections import SELECTIONS
from raydd.errors import ConfigError, TrialsError
from raydd.place import home, open_store
from raydd.progress import silent
from raydd.protocols import Opened, Workbench, can_select, open_workbench, trial_settings
from raydd.ranges import RANGES, as_name
from raydd.secrets_hidden import hide_password
from raydd.settings import flatten, to_yaml, with_file, with_settings
from raydd.store import Store, fingerprint
from raydd.terminal.progress import progress_on
from raydd.terminal.text import duration
from raydd.tuning.busy import doing_on
from raydd.tuning.live import what_runs
from raydd.tuning.preparing import look_at_cards, prepare
from raydd.tuning.sweeping import run_sweep

_SWEEP_NAME_LENGTH = 110  # longest name of a sweep in characters, without the fingerprint at its end
RESTARTS = 2  # retries of a set whose process or node died
TRIALS_SEED = int(RANGES["compare.sets"][1])  # added to `distill.seed` for trials, so that no set has the same seed
TUNED, AS_PUBLISHED, AS_GIVEN = "tuned", "published settings", ""
_NOT_SHARED = ("place.", "evaluate.", "pixels.", "sweep.", "compare.")  # settings that do not change a sweep's trials


@dataclasses.dataclass(frozen=True)
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
    with contextlib.ExitStack() as stack:
        if address != "local":  # connect first, to find out which GPUs the cluster has
            stack.enter_context(cluster(address, home(config.place)))
        bases = _configs_by_data(config, address)
        planned = [plan for name, base in bases.items() for plan in _row_plans(base, name)]
        with progress_on(console) as progress:
            works = [open_workbench(base, store, progress, opened) for base in bases.values()]
            for work, name in zip(works, bases, strict=True):
                budgets = [plan.config.distill.pairs for plan in planned if plan.data == name and plan.kind != "full"]
                work.require_enough_pairs(max(budgets, default=1))
            prepared = [work.is_prepared for work in works]
            if not dry_run:
                stack.enter_context(cluster(address, home(config.place)))
                for work in works:
                    look_at_cards(work.config, address, console, dry_run=False)
                    prepare(work, address)

        def work_of(plan: RowPlan) -> Workbench[Any]:
            return open_workbench(plan.config, store, silent, opened)

        console.print(_plan_table(config, bases, planned, work_of, store, features_cached=all(prepared) or not dry_run))
        if dry_run:
            return None
        folder = home(config.place) / "comparisons" / config.compare.name
        plans, failed = _tune(planned, address, console, folder)
        rows = _make_rows(plans, failed, work_of, opened, store, folder, console)
        files = write_comparison(rows, failed, folder)
    console.print(f"kept in {folder}: {', '.join(file.name for file in files)}", soft_wrap=True)
    return Comparison(rows, failed, files)


def _configs_by_data(config: Config, address: str) -> dict[str, Config]:
    """Return the settings of each data set and protocol, by the name that the table gives it."""
    configs = {file: with_file(config, file) for file in dict.fromkeys(config.compare.data)} or {"": config}
    bases, files = {}, {}
    for file, base in configs.items():
        _require_distinct(base.compare.methods)
        name, settings = base.data.name or base.data.reader, {}
        if "distill.images" not in trial_settings(base):  # a trial would take as long as a row itself
            name, settings = f"{name}, image encoder trained", {"compare.trials": 0}
        if (first_file := files.setdefault(as_name(name), file)) != file:
            raise ConfigError(
                f"{first_file} and {file} of compare.data are both called {name!r}, and one table cannot tell them "
                "apart. If the data differ, set another data.name in one of the files. To compare the same data with "
                "other settings, start another comparison with another compare.name."
            )
        resolved = with_settings(base, {**settings, "sweep.gpus": wanted_gpus(base, address)})
        bases[name] = settled(resolved, cpus=base.sweep.cpus, gpus=resolved.sweep.gpu_share)
    return bases


def _require_distinct(methods: Sequence[str]) -> None:
    """Refuse two user-defined methods of the same name, since rows and files are identified by that name.

    Raises:
        ConfigError: two methods have the same name; the message names both.
    """
    methods_by_name: dict[str, str] = {}
    for method in methods:
        if (first_method := methods_by_name.setdefault(as_name(_slug(method)), method)) != method:
            raise ConfigError(
                f"{first_method} and {method} of compare.methods have the same name, and one table cannot tell them "
                "apart. Rename one of the files."
            )


def _row_plans(base: Config, data: str) -> list[RowPlan]:
    """Return all rows of a data set, in the order of `compare.pairs`; rows to be tuned have their method's settings."""
    plans = []
    for count in base.compare.pairs:
        for method in base.compare.methods:
            if not can_select(base, method):
                continue
            if base.compare.trials and is_tuned(method):
                plans.append(plan_of(base, method, data, count, TUNED, {}))
                if base.compare.published and find_method(method).published:
                    plans.append(plan_of(base, method, data, count, AS_PUBLISHED, find_method(method).published))
            else:
                plans.append(plan_of(base, method, data, count, AS_GIVEN, {}))
    return list(dict.fromkeys(plans))  # full data has no budget, so its equal rows become one


def _tune(
    plans: Sequence[RowPlan], address: str, console: Console, folder: Path
) -> tuple[list[RowPlan], dict[str, str]]:
    """Tune each row that is to be tuned, by a sweep at its own number of pairs.

    The settings found are also written to the comparison's folder as YAML. A row whose trials give no result is left
    out; the comparison goes on with the other rows.

    Returns:
        All rows, with the settings found, and the reason for each row that could not be tuned.
    """
    tuned_plans, failed = list[RowPlan](), dict[str, str]()
    for plan in plans:
        if plan.variant != TUNED:
            tuned_plans.append(plan)
            continue
        try:
            found = _best_settings(_sweep_config(plan), address, console)
        except TrialsError as error:
            failed[f"{plan.name}, {plan.data}, {plan.pairs} pairs"] = str(error)
            console.print(f"{_describe(plan)} failed: {error}", markup=False, soft_wrap=True)
            continue
        tuned = plan_of(plan.config, plan.method, plan.data, plan.pairs - 1, TUNED, found)
        folder.mkdir(parents=True, exist_ok=True)
        file_name = as_name(f"{plan.data}-{_slug(plan.method)}-{plan.pairs}")
        (folder / f"{file_name}.yaml").write_text(to_yaml(tuned.config), encoding="utf-8")
        tuned_plans.append(tuned)
    return tuned_plans, failed


def _best_settings(sweep: Config, address: str, console: Console) -> Mapping[str, Any]:
    """Run a sweep and return the settings of its best trial.

    Raises:
        TrialsError: trials failed one after another for the same reason, or none ran to completion.
    """
    result = run_sweep(sweep, address, dry_run=False, console=console)
    if result is None or result.best is None:
        reason = next(iter(result.failed.values()), "") if result else ""
        raise TrialsError(
            f"No trial of the sweep {sweep.sweep.name} ran to completion{f' ({reason})' if reason else ''}. "
            "Correct the cause, or remove the method from compare.methods."
        )
    return dict(result.settings)


def _sweep_config(plan: RowPlan) -> Config:
    """Return the settings of the sweep that tunes a row.

    The sweep's name ends with a fingerprint of the settings that all its trials share, so changed settings start
    another sweep.
    """
    # No set may have the trials' seed: settings chosen with that seed would favour this set of the tuned row.
    config = with_settings(plan.config, {"distill.seed": plan.config.distill.seed + TRIALS_SEED})
    shared_settings = {name: value for name, value in flatten(config).items() if not name.startswith(_NOT_SHARED)}
    del shared_settings["distill.images"]
    digest = fingerprint("compare", 1, shared_settings, {})[:6]
    compare = config.compare
    name = as_name(f"{compare.name}-{plan.data}-{_slug(plan.method)}-{plan.pairs}")
    return with_settings(
        dataclasses.replace(config, compare=CompareConfig()),
        {
            "sweep.name": f"{name[:_SWEEP_NAME_LENGTH]}-{digest}",
            "sweep.space": find_method(plan.method).space,
            "sweep.trials": compare.trials,
            "sweep.finalists": 0,
            "sweep.drawn_again": 0,
            "sweep.objectives": ("r_mean",),
        },
    )


def _slug(method: str) -> str:
    """Return a method's name for use in file names: FILE.py:NAME or module:NAME without its folder and colon."""
    return Path(method).name.replace(":", "-")


WorkOf = Callable[[RowPlan], Workbench[Any]]
SetKey = tuple[RowPlan, int]  # the plan of a row and the number of one of its sets


def _make_rows(
    plans: Sequence[RowPlan],
    failed: dict[str, str],
    work_of: WorkOf,
    opened: Opened,
    store: Store,
    folder: Path,
    console: Console,
) -> list[Row]:
    """Make all sets of all rows in parallel, and rewrite the table after each set.

    Sets that fail are added to `failed` with the reason.
    """
    all_sets = [(plan, number) for plan in plans for number in range(plan.sets)]
    made_sets: dict[SetKey, MadeSet] = {}
    rows: dict[RowPlan, Row] = {}

    def add_set(plan: RowPlan, number: int, new_set: MadeSet) -> None:
        made_sets[plan, number] = new_set
        rows[plan] = Row.of(
            plan, [made_sets[plan, set_number] for set_number in range(plan.sets) if (plan, set_number) in made_sets]
        )

    for plan, number in all_sets:
        if is_made(plan, number, work_of(plan)):
            add_set(plan, number, make_set(plan, number, work_of(plan)))
    estimates = {
        set_key: _estimate_seconds(set_key[0], work_of(set_key[0])) for set_key in all_sets if set_key not in made_sets
    }
    if not estimates:
        return [rows[plan] for plan in plans]
    if any(map(math.isnan, estimates.values())):
        estimates = dict.fromkeys(estimates, 1.0)  # some estimates are unknown: count all sets alike
    shared = Shared(f"comparison {plans[0].config.compare.name}", opened.listings, open_claims(store.root))
    worker_plans = {
        plan: dataclasses.replace(plan, config=for_workers(plan.config, _gpus_per_set(plan.config.sweep)))
        for plan, _ in estimates
    }
    # All sets use one remote function, since Ray starts the tasks of a function in order, so rows are made in order.
    # max_calls=1 gives each set its own process, so that the peak memory measured is that of this set.
    task = ray.remote(max_calls=1, max_retries=RESTARTS)(compare_set)
    tasks = {
        task.options(num_cpus=plan.config.sweep.cpus, num_gpus=_gpus_per_set(plan.config.sweep)).remote(
            worker_plans[plan], number, shared
        ): (plan, number)
        for plan, number in estimates
    }
    with _progress_reported(estimates, shared, console) as (report_set, show_running):
        for (plan, number), made_set, reason in outcomes(tasks, show_running):
            if reason:
                failed[f"{plan.name}, {plan.data}, {plan.pairs} pairs, set {number}"] = reason
                console.print(f"{_describe_set(plan, number)} failed: {reason}", markup=False)
            else:
                add_set(plan, number, made_set)
            report_set((plan, number), made_set)
            write_comparison([rows[plan] for plan in plans if plan in rows], failed, folder)
    return [rows[plan] for plan in plans if plan in rows]


def _describe(plan: RowPlan) -> str:
    """Return a short description of a row for progress messages."""
    return f"{plan.name}, {plan.pairs} pairs"


def _describe_set(plan: RowPlan, number: int) -> str:
    return f"{_describe(plan)}{f', set {number}' if plan.sets > 1 else ''}"


def _gpus_per_set(sweep: SweepConfig) -> float:
    """Number of GPUs for a set.

    The memory of a set is not estimated, so it gets a whole GPU where a trial would get a share by its memory.
    """
    return abs(sweep.gpu_share)


@exit_waits()
def compare_set(plan: RowPlan, number: int, shared: Shared) -> MadeSet:
    """Make one set of a row, in a Ray worker. Experts, features and warm-ups that sets share are made once.

    Args:
        plan: the row.
        number: number of the set within the row.
        shared: what the driver gave to all its workers.
    """
    label = f"{plan.name} {plan.data} {plan.pairs} set {number}"
    with claiming_work(plan.config, label, shared) as (work, claimant):
        if plan.method in SELECTIONS:
            # Selections of all sizes share warm-ups, so only one selection of a data set runs at a time.
            with claimant.waiting_for(f"selections of {plan.data}"):
                work.select(plan.method, plan.pairs, number)
        elif plan.kind == "synthetic":
            share_making(work, claimant)
        else:  # full data: it needs the shared features, but not the experts of a distillation
            share_features(work, claimant)
        return make_set(plan, number, work)


@contextlib.contextmanager
def _progress_reported(
    estimates: Mapping[SetKey, float], shared: Shared, console: Console
) -> Iterator[tuple[Callable[[SetKey, MadeSet | None], None], Callable[[], None]]]:
    """Report each finished set, and meanwhile what is running and the time left.

    The time left follows from the estimated work (`estimates`) of the sets that are done and of those that are not.
    """
    start, total, finished = time.monotonic(), sum(estimates.values()), list[SetKey]()

    def report_set(set_key: SetKey, made_set: MadeSet | None) -> None:
        finished.append(set_key)
        if made_set is not None:
            message = (
                f"{_describe_set(*set_key)}: r_mean {made_set.mean('r_mean'):.2f} ({len(finished)}/{len(estimates)})"
            )
            console.print(message, highlight=False)

    with doing_on(console, f"{len(estimates)} sets") as show:

        def show_running() -> None:
            done = sum(estimates[set_key] for set_key in finished)
            remaining = f", {duration((time.monotonic() - start) / done * (total - done))} left" if done else ""
            show(f"{len(finished)}/{len(estimates)} sets{remaining}; {what_runs(shared.doing())}")

        yield report_set, show_running


def _estimate_seconds(plan: RowPlan, work: Workbench[Any]) -> float:
    """Estimate the seconds of one set of a row on one core, without shared experts.

    NaN (unknown) on a GPU, and while the features are not cached.
    """
    config, widths = plan.config, work.feature_widths
    if widths is None or config.sweep.gpu_share:
        return math.nan
    if plan.kind == "synthetic":
        checks = config.compare.checks * check_seconds(config, *widths)
        return trial_seconds(config, *widths) + pixel_seconds(config) + checks
    return trial_seconds(with_settings(config, {"distill.steps": 0}), *widths)


def _distinct(texts: Iterable[str]) -> str:
    """Join what is said of each row, since the files of `compare.data` may differ in it."""
    return "; ".join(dict.fromkeys(texts))


def _plan_table(
    config: Config,
    bases: Mapping[str, Config],
    plans: Sequence[RowPlan],
    work_of: WorkOf,
    store: Store,
    *,
    features_cached: bool,
) -> Table:
    """Return the plan for the terminal; with `features_cached`, it shows the time and the sets that exist."""
    compare = config.compare
    table = Table(show_header=False, box=None, pad_edge=False, title=f"comparison {compare.name}", title_justify="left")
    tuned = [plan for plan in plans if plan.variant == TUNED]
    table.add_row("data", ", ".join(bases))
    methods = ", ".join(dict.fromkeys(plan.method for plan in plans))
    table.add_row("rows", f"{len(plans)}: {methods}; budgets {', '.join(map(str, compare.pairs))}")
    if tuned:
        methods, data = (dict.fromkeys(getattr(plan, field) for plan in tuned) for field in ("method", "data"))
        trials = f"{compare.trials} trials each of {', '.join(methods)} for each budget, chosen on val"
        table.add_row("tuning", f"{trials}, for {' and '.join(data)}")
    for name, base in bases.items():
        if left_out := [method for method in compare.methods if not can_select(base, method)]:
            table.add_row(
                "left out", f"{', '.join(left_out)}, for {name}: they choose by features, which training changes here"
            )
        if compare.trials and not base.compare.trials:
            table.add_row("not tuned", f"{name}: methods use the given settings, since a trial takes as long as a row")
    table.add_row("sets", _distinct(f"{plan.config.compare.sets} for each row, 1 for full data" for plan in plans))
    students = _distinct(
        f"{plan.config.evaluate.seeds} for each set, {plan.config.compare.choice}, on {plan.config.evaluate.split}"
        for plan in plans
    )
    table.add_row("students", students)
    if features_cached:
        all_sets = [(plan, number) for plan in plans for number in range(plan.sets)]
        missing = [(plan, number) for plan, number in all_sets if not is_made(plan, number, work_of(plan))]
        seconds = sum(_estimate_seconds(plan, work_of(plan)) for plan, _ in missing)
        tuning = sum(
            plan.config.compare.trials * trial_seconds(plan.config, *(work_of(plan).feature_widths or (0, 0)))
            for plan in tuned
        )
        table.add_row(
            "in the store",
            f"{len(all_sets) - len(missing)} of {len(all_sets)} sets, not counting settings of earlier trials",
        )
        time_text = "unknown" if math.isnan(seconds) else f"about {duration(seconds + tuning)} of one core"
        table.add_row("time", f"{time_text}, experts not counted")
    table.add_row("store", hide_password(store.root))
    return table
