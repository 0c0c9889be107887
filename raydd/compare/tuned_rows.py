"""Tunes the rows of a comparison: a sweep for each method and number of pairs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from raydd.cluster.worker_settings import without_passwords
from raydd.compare.plans import TUNED, RowPlan, plan_of, slug
from raydd.config import CompareConfig, Config
from raydd.config.compare import MOST_SETS
from raydd.distill.methods import find_method
from raydd.errors import TrialsError
from raydd.ranges import as_name
from raydd.settings import flatten, to_yaml, with_settings
from raydd.store import fingerprint
from raydd.store.files import write_whole
from raydd.tuning.sweeping import run_sweep

_SWEEP_NAME_LENGTH = 110  # longest name of a sweep in characters, without the fingerprint at its end
TRIALS_SEED = MOST_SETS  # added to `distill.seed` for trials, so that no set has the same seed
_NOT_SHARED = ("place.", "evaluate.", "pixels.", "sweep.", "compare.")  # settings that do not change a sweep's trials


def tune(
    plans: Sequence[RowPlan], address: str, console: Console, folder: Path
) -> tuple[list[RowPlan], dict[str, str]]:
    """Tune each row that is to be tuned, by a sweep at its own number of pairs.

    The settings found are also written to the comparison's folder as YAML, without passwords. A row whose trials give
    no result is left out; the comparison goes on with the other rows.

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
            console.print(f"{plan.description} failed: {error}", markup=False, soft_wrap=True)
            continue
        tuned = plan_of(plan.config, plan.method, plan.data, plan.pairs - 1, TUNED, found)
        file_name = as_name(f"{plan.data}-{slug(plan.method)}-{plan.pairs}")
        write_whole(folder / f"{file_name}.yaml", to_yaml(without_passwords(tuned.config)).encode())
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
    name = as_name(f"{compare.name}-{plan.data}-{slug(plan.method)}-{plan.pairs}")
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
