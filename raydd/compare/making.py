"""Makes the sets of a comparison's rows as Ray tasks, and rewrites the table after each."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import ray
from rich.console import Console

from raydd.cluster.claims import open_claims
from raydd.cluster.connect import outcomes
from raydd.cluster.graceful_exit import exit_waits
from raydd.cluster.sharing import Shared, claiming_work, share_features, share_making
from raydd.cluster.worker_settings import for_workers
from raydd.compare.plan_table import WorkOf, estimate_seconds
from raydd.compare.plans import RowPlan
from raydd.compare.rows import MadeSet, Row, is_made, make_set
from raydd.compare.table import write_comparison
from raydd.config import SweepConfig
from raydd.distill.selections import SELECTIONS
from raydd.protocols import Opened
from raydd.store import Store
from raydd.terminal.busy import doing_on
from raydd.terminal.text import duration
from raydd.tuning.finals import RESTARTS
from raydd.tuning.live import what_runs

SetKey = tuple[RowPlan, int]  # the plan of a row and the number of one of its sets
_START_SECONDS = 5.0  # for a set's process to start, import torch and open the data


def make_rows(
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
        set_key: _START_SECONDS + estimate_seconds(set_key[0], work_of(set_key[0]))
        for set_key in all_sets
        if set_key not in made_sets
    }
    if not estimates:
        return [rows[plan] for plan in plans]
    if any(map(math.isnan, estimates.values())):
        estimates = dict.fromkeys(estimates, 1.0)  # some estimates are unknown: count all sets alike
    shared = Shared(f"comparison {plans[0].config.compare.name}", opened.listings, open_claims(store.root))
    with _progress_reported(estimates, shared, console) as (report_set, show_running):
        for (plan, number), made_set, reason in outcomes(_start_tasks(estimates, shared), show_running):
            if reason:
                failed[f"{plan.name}, {plan.data}, {plan.pairs} pairs, set {number}"] = reason
                console.print(f"{_describe(plan, number)} failed: {reason}", markup=False)
            else:
                add_set(plan, number, made_set)
            report_set((plan, number), made_set)
            write_comparison([rows[plan] for plan in plans if plan in rows], failed, folder)
    return [rows[plan] for plan in plans if plan in rows]


def _start_tasks(sets: Iterable[SetKey], shared: Shared) -> dict[ray.ObjectRef, SetKey]:
    """Start a task for each set. Ray starts the tasks of one remote function in order, so rows are made in order."""
    # max_calls=1 gives each set its own process, so that the peak memory measured is that of this set.
    task = ray.remote(max_calls=1, max_retries=RESTARTS)(compare_set)

    def start(plan: RowPlan, number: int) -> ray.ObjectRef:
        gpus = gpus_per_set(plan.config.sweep)
        worker_plan = dataclasses.replace(plan, config=for_workers(plan.config, gpus))
        return task.options(num_cpus=plan.config.sweep.cpus, num_gpus=gpus).remote(worker_plan, number, shared)

    return {start(plan, number): (plan, number) for plan, number in sets}


def _describe(plan: RowPlan, number: int) -> str:
    """Return a short description of a set for progress messages."""
    return f"{plan.description}{f', set {number}' if plan.sets > 1 else ''}"


def _label(plan: RowPlan, number: int) -> str:
    """Return the name under which the process of a set says what it is doing."""
    return f"{plan.name} {plan.data} {plan.pairs} set {number}"


def gpus_per_set(sweep: SweepConfig) -> float:
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
    with claiming_work(plan.config, _label(plan, number), shared) as (work, claimant):
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
    """Report each finished set, and meanwhile what is running and the time left."""
    start, slots = time.monotonic(), 1
    first_seen, durations = dict[str, float](), dict[SetKey, float]()

    def report_set(set_key: SetKey, made_set: MadeSet | None) -> None:
        now = time.monotonic()
        durations[set_key] = now - first_seen.get(_label(*set_key), now)
        if made_set is not None:
            message = f"{_describe(*set_key)}: r_mean {made_set.mean('r_mean'):.2f} ({len(durations)}/{len(estimates)})"
            console.print(message, highlight=False)

    with doing_on(console, f"{len(estimates)} sets") as show:

        def show_running() -> None:
            nonlocal slots
            doing, now = shared.doing(), time.monotonic()
            slots = max(slots, sum(map(bool, doing.values())))  # an empty text: its process is idle
            for label in doing:
                first_seen.setdefault(label, now)
            seconds = seconds_left(estimates, durations, slots, now - start)
            remaining = f", {duration(seconds)} left" if seconds else ""
            show(f"{len(durations)}/{len(estimates)} sets{remaining}; {what_runs(doing)}")

        yield report_set, show_running


def seconds_left(
    estimates: Mapping[SetKey, float], durations: Mapping[SetKey, float], slots: int, elapsed: float
) -> float:
    """Return in about how many seconds all sets are made; 0 if that is not known.

    Args:
        estimates: the estimated work of each set, in any unit.
        durations: the seconds that each finished set took.
        slots: how many sets are made at once.
        elapsed: seconds since the start.
    """
    finished_work = sum(estimates[set_key] for set_key in durations)
    if not finished_work:
        return 0.0
    seconds_per_work = sum(durations.values()) / finished_work
    return max(0.0, seconds_per_work * sum(estimates.values()) / slots - elapsed)
