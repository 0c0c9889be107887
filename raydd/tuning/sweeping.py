"""A sweep from its plan to its result: composes the modules of this room."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import ray
from ray import tune
from rich.console import Console
from rich.status import Status

from raydd.cluster.claims import open_claims
from raydd.cluster.connect import cluster, share_of_node, slots
from raydd.cluster.worker_settings import settled, tune_folder, without_passwords
from raydd.config import Config
from raydd.data.checking import check_on_threads
from raydd.place import home, open_store
from raydd.progress import silent
from raydd.protocols import Listings, Opened, Workbench, open_workbench
from raydd.settings import with_settings
from raydd.terminal.progress import progress_on
from raydd.tracking.runs import Tracking
from raydd.tuning import study as studies
from raydd.tuning.finals import Candidate, Finalist, run_finals
from raydd.tuning.lease import driving
from raydd.tuning.live import LiveTable
from raydd.tuning.logbook import Logbook
from raydd.tuning.plan import Plan, make_plan, with_gpu_share
from raydd.tuning.results import RESULT, SETTINGS, SweepResult, candidates, conclude, importances
from raydd.tuning.trials import run_trials
from search_spaces import draw_configs, load_space
from trainables.distill import distill_trial
from trainables.features import check_on_workers, make_features

ENCODERS = 8  # workers that share a data set out on a cluster; a shard each at a time
MACHINE_SECONDS = 1800.0  # that a cluster may take to start its first machine with a GPU


def run_sweep(config: Config, address: str, *, dry_run: bool, console: Console) -> SweepResult | None:
    """Plan a sweep, run or continue its trials and its finals, and conclude; None for a dry run.

    Args:
        config: as the user gave it.
        address: Ray's, see `raydd.cluster.environment.ray_address`.
        dry_run: show the plan and stop.
        console: where to show everything.

    Raises:
        ConfigError: the space, the study, the resources or the settings are not in order.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base = settled(config, cpus=config.sweep.cpus, gpus=config.sweep.gpus)
    space, store = load_space(config.sweep.space), open_store(base.place)
    drawn = draw_configs(space, base)
    # On a cluster its nodes look at the images of a data set that nobody has read before.
    work = open_workbench(
        base, store, opened=Opened(check=check_on_threads if address == "local" else check_on_workers)
    )
    # Tracking ends last: what is still to be sent must not keep an interrupted sweep's trials running.
    with _tracking(base, console) as tracking, cluster(address, home(base.place)):
        if base.sweep.gpus < 0:
            with progress_on(console) as progress:
                _prepare(work.with_progress(progress), address)
            wait = 0.0 if address == "local" else MACHINE_SECONDS
            base = with_gpu_share(base, drawn, work.feature_widths, wait=wait)
            work = open_workbench(base, store, silent, work.opened)
        at_once = base.sweep.at_once or (slots(base.sweep.cpus, base.sweep.gpus) if address == "local" else 0)
        with progress_on(console) as progress:
            known = studies.find_study(base, base.place.study)
            sources = studies.sources_of(base, work.with_progress(progress).data.fingerprint)
            work.require_enough_pairs(max(each.distill.pairs for each in (base, *drawn)))
            if known:
                studies.require_same_sources(known, sources, remember=False)
            plan = make_plan(work.with_progress(progress), space, drawn, known, at_once)
        console.print(plan.table())
        if dry_run:
            return None
        study = studies.open_study(base, space, base.place.study)
        studies.require_same_sources(study, sources, remember=True)
        with driving(study):
            studies.requeue_interrupted(study)
            if math.isnan(plan.seconds):
                with progress_on(console) as progress:  # with all there is, before the trials share it out
                    _prepare(work.with_progress(progress), address)
                plan = make_plan(work, space, drawn, study, at_once)
            logbook = Logbook(tracking, studies.study_id(study), work)
            logbook.catch_up(study)
            claims = open_claims(store.root)
            _run_trials(plan, study, work.opened.listings, claims, logbook, console)
            finalists = _run_finals(config, base, study, work.opened.listings, claims, logbook, console)
            result = conclude(study, config, finalists)
            logbook.concluded(result, importances(study, base.sweep.objectives))
    folder = home(config.place) / "sweeps" / result.name
    result.write(folder)
    console.print(result.tables())
    console.print(f"kept in {folder}: {RESULT}, {SETTINGS}", soft_wrap=True)
    return result


def _prepare(work: Workbench[Any], address: str) -> None:
    """What the trials read of the data, encoded by this process on a machine of its own, on a cluster by its nodes."""
    if address != "local":
        gpus = 1.0 if work.config.sweep.gpus else 0.0
        make_features(work, workers=ENCODERS, gpus=gpus)
    work.prepare()


def _run_trials(
    plan: Plan, study: optuna.Study, listings: Listings, claims: Any, logbook: Logbook, console: Console
) -> None:
    sweep = plan.config.sweep
    best = candidates(study, sweep.objectives, 1)

    def doing() -> Mapping[str, str]:
        return ray.get(claims.doing.remote())

    table = LiveTable(
        sweep.name,
        sweep.trials,
        plan.done,
        at_once=plan.at_once,
        best=(best[0].number, best[0].cheap, best[0].settings) if best else None,
        expected=plan.seconds,
        doing=doing,
        console=console,
    )
    with table:
        run_trials(
            tune.with_parameters(distill_trial, base=without_passwords(plan.config), listings=listings, claims=claims),
            study,
            plan.space,
            sweep,
            [table, logbook],
            folder=tune_folder(plan.config),
            at_once=plan.at_once,
            say=lambda message: console.print(message, markup=False, soft_wrap=True),
        )


def _run_finals(
    config: Config,
    base: Config,
    study: optuna.Study,
    listings: Listings,
    claims: Any,
    logbook: Logbook,
    console: Console,
) -> list[Finalist]:
    best = candidates(study, base.sweep.objectives, base.sweep.finalists)
    if len(best) < base.sweep.finalists:
        console.print(
            f"finals of {len(best)} trials in place of {base.sweep.finalists}: no more went to their end. "
            "With --sweep.no-stop-weak none is stopped early.",
            soft_wrap=True,
        )
    if not best:
        return []
    cpus = share_of_node(base.sweep.cpus, len(best))
    base = with_settings(base, {"place.threads": config.place.threads or max(1, int(cpus))})

    def ended(candidate: Candidate, finalist: Finalist | None, reason: str) -> None:
        if finalist is None:
            console.print(f"the final of trial {candidate.number} failed: {reason}", markup=False, soft_wrap=True)
            return
        logbook.final(finalist)
        console.print(
            f"final of trial {finalist.number}: val {finalist.r_mean:.2f}, test {finalist.test['r_mean']['mean']:.2f}",
            highlight=False,
        )

    with _status(console) as status:

        def wait() -> None:
            doing: Any = ray.get(claims.doing.remote())
            status.update("; ".join(f"{who}: {what}" for who, what in sorted(doing.items())) or "finals")

        return run_finals(without_passwords(base), best, listings, claims, cpus=cpus, on_end=ended, on_wait=wait)


@contextlib.contextmanager
def _status(console: Console) -> Iterator[Status]:
    status = console.status("finals")
    if not console.is_terminal:
        yield status
        return
    with status:
        yield status


def _tracking(config: Config, console: Console) -> Tracking:
    return Tracking(
        config.place.mlflow,
        home(config.place) / "mlartifacts",
        lambda message: console.print(message, markup=False, highlight=False, soft_wrap=True),
    )
