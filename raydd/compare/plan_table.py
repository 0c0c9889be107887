"""The plan of a comparison for the terminal: rows, trials, what the store has, and the time that the rest takes."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from raydd.compare.plans import TUNED, RowPlan
from raydd.compare.rows import is_made
from raydd.config import Config
from raydd.cost.seconds import check_seconds, pixel_seconds, trial_seconds
from raydd.protocols import Workbench, can_select
from raydd.secrets_hidden import hide_password
from raydd.settings import with_settings
from raydd.store import Store
from raydd.terminal.text import duration

WorkOf = Callable[[RowPlan], Workbench[Any]]


def plan_table(
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
        tuned_methods = ", ".join(dict.fromkeys(plan.method for plan in tuned))
        trials = f"{compare.trials} trials each of {tuned_methods} for each budget, chosen on val"
        table.add_row("tuning", f"{trials}, for {' and '.join(dict.fromkeys(plan.data for plan in tuned))}")
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
        seconds = sum(estimate_seconds(plan, work_of(plan)) for plan, _ in missing)
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


def estimate_seconds(plan: RowPlan, work: Workbench[Any]) -> float:
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
