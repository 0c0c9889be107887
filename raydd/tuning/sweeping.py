"""Runs a sweep from its plan to its result, by composing the modules of this package."""

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from raydd.cluster.claims import job_of, open_claims
from raydd.cluster.connect import cluster, reason_of, share_of_node, slots, slots_now, slots_to_come
from raydd.cluster.gpus import (
    MACHINE_SECONDS,
    Cards,
    faults,
    faulty_held,
    gpus_now,
    gpus_to_come,
    usable_cards,
    wanted_gpus,
)
from raydd.cluster.launch_failures import LaunchFailures, telling
from raydd.cluster.worker_settings import for_workers, settled, tune_folder
from raydd.config import Config
from raydd.data.checking import check_on_threads
from raydd.place import home, mlflow_address, open_store
from raydd.progress import silent
from raydd.protocols import Listings, Opened, Workbench, open_workbench
from raydd.settings import with_settings
from raydd.terminal.progress import progress_on
from raydd.tracking.runs import Tracking
from raydd.tuning import study as studies
from raydd.tuning.busy import busy_on, doing_on
from raydd.tuning.cheap_starts import queue_cheap_starts, queued_settings
from raydd.tuning.finals import Candidate, Finalist, run_finals
from raydd.tuning.lease import driving
from raydd.tuning.live import LiveTable, what_runs
from raydd.tuning.logbook import Logbook
from raydd.tuning.metrics import Metrics
from raydd.tuning.plan import (
    Plan,
    make_plan,
    on_workbenches,
    sharing_experts,
    together,
    with_gpu_share,
)
from raydd.tuning.prices import END, Price
from raydd.tuning.redraws import draw_again
from raydd.tuning.results import RESULT, SETTINGS, SweepResult, candidates, conclude, importances
from raydd.tuning.samplers import PER_SECOND, find_sampler
from raydd.tuning.steering import enqueue, forget_orders, warm_start, warm_trials, why_enough
from raydd.tuning.trials import run_trials
from search_spaces import Space, draw_configs, keeping, load_space
from trainables.distill import DistillTrial
from trainables.errand import ERRAND_BYTES, run_errand
from trainables.experts import make_experts
from trainables.features import check_on_workers, make_features
from trainables.slot import Desk

PLANNING = "planning the sweep"
ENCODERS = 8  # workers that encode a data set on a cluster, each one shard at a time


def run_sweep(
    config: Config,
    address: str,
    *,
    dry_run: bool,
    retry_failed: bool = False,
    given: Collection[str] = (),
    console: Console,
) -> SweepResult | None:
    """Plan a sweep, run or continue its trials and its finals, and return its result.

    Args:
        config: as the user gave it.
        address: address of the Ray cluster, see `raydd.cluster.environment.ray_address`.
        dry_run: show the plan and stop.
        retry_failed: run the failed trials of earlier commands again.
        given: names of settings that are not searched, because flags set their values.
        console: where progress and results are printed.

    Returns:
        The result; None for a dry run.

    Raises:
        ConfigError: the space, the study, the resources or the settings are not valid.
        TrialsError: several trials in a row failed for the same reason.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, store = load_space(config.sweep.space), open_store(config.place)
    draw_configs(space, config)  # fail on a wrong space or sampler before starting Ray
    space = keeping(space, config, given)
    find_sampler(config.sweep.sampler)(config.sweep.seed)
    # On a cluster, the nodes check the images of a new data set; a dry run starts no node, so it checks them here.
    here = address == "local" or dry_run
    opened = Opened(check=check_on_threads if here else check_on_workers)
    # Tracking is closed last: the trials of an interrupted sweep must not keep running while its queue is sent.
    with contextlib.ExitStack() as closing, _tracking(config, console) as tracking, contextlib.ExitStack() as stack:
        with busy_on(console, "starting Ray"):
            stack.enter_context(cluster(address, home(config.place)))
        refusals = stack.enter_context(_refusals(console))
        base = with_settings(config, {"sweep.gpus": wanted_gpus(config, address)})
        base = settled(base, cpus=base.sweep.cpus, gpus=base.sweep.gpu_share)
        cards = look_at_cards(base, address, console, why_none=refusals.look, dry_run=dry_run)
        stack.enter_context(faulty_held())
        planned = _planned(open_workbench(base, store, silent, opened), space, address, cards, console, dry_run=dry_run)
        console.print(planned.plan.table())
        if dry_run:
            return None
        base, work = planned.work.config, planned.work
        study = studies.open_study(base, space, base.place.study, alone=driving)
        studies.require_same_sources(study, planned.sources, remember=True)
        with driving(study):
            plan = _begun(planned, study, address, console, retry_failed=retry_failed)
            _make_experts(work, plan, study, console)
            logbook = Logbook(tracking, studies.study_id(study), work)
            logbook.catch_up(study)
            claims = open_claims(store.root)
            _run_trials(plan, work, study, claims, logbook, console)
            _draw_again(base, study, work.opened.listings, claims, console)
            finalists = _run_finals(config, base, study, work.opened.listings, claims, logbook, console)
            closing.enter_context(busy_on(console, "stopping Ray and sending the remaining data to MLflow"))
            result = conclude(study, config, finalists)
            logbook.concluded(result, importances(study, base.sweep.objectives))
    folder = home(config.place) / "sweeps" / result.name
    result.write(folder)
    console.print(result.tables())
    console.print(f"kept in {folder}: {RESULT}, {SETTINGS}", soft_wrap=True)
    return result


@dataclass(frozen=True)
class _Planned:
    plan: Plan
    work: Workbench[Any]
    """The workbench of the base settings, with the resources of a trial resolved."""
    drawn: Sequence[Config]
    """Example configs of trials, drawn from the search space."""
    sources: Mapping[str, str]
    """Identities of data, encoders and own code, from `studies.sources_of`."""


def _planned(
    work: Workbench[Any], space: Space, address: str, cards: Sequence[Cards], console: Console, *, dry_run: bool
) -> _Planned:
    """Plan the sweep from the data, the study and the store.

    Encodes the data only if the GPU share of a trial has to be found, which depends on the widths of the features.
    """
    base = work.config
    drawn = draw_configs(space, base)
    base = with_settings(base, {"sweep.together": together(base, drawn)})
    if len({each.distill.seed for each in drawn}) > 1:  # the seed is searched, so a new draw would be another trial
        base = with_settings(base, {"sweep.drawn_again": 0})
    drawn = drawn[0 if base.sweep.first else len(space.first) :]
    work = open_workbench(base, work.store, silent, work.opened)
    with progress_on(console) as progress:
        known = studies.find_study(base, base.place.study)
        warm_trials(known, base.sweep.warm_start, base.place.study)  # fail on a wrong warm start before any work
        fingerprint = work.with_progress(progress).data.fingerprint
        work.require_enough_pairs(max(each.distill.pairs for each in (base, *drawn)))
    with busy_on(console, "looking at the encoders"):
        sources = studies.sources_of(base, fingerprint)
    if known:
        studies.require_same_sources(known, sources, remember=False)
    if base.sweep.gpu_share < 0:
        if not dry_run:
            with progress_on(console) as progress:
                prepare(work.with_progress(progress), address)
        widths = work.feature_widths if work.is_prepared else None  # asking for the widths would encode missing data
        base = with_gpu_share(base, drawn, widths, cards)
        work = open_workbench(base, work.store, silent, work.opened)
    at_once = base.sweep.at_once
    if not at_once and address == "local":
        at_once = slots(base.sweep.cpus, base.sweep.gpu_share) * base.sweep.together
    with busy_on(console, PLANNING):
        return _Planned(make_plan(work, space, drawn, known, at_once), work, drawn, sources)


def _begun(planned: _Planned, study: optuna.Study, address: str, console: Console, *, retry_failed: bool) -> Plan:
    """Queue the first trials and prepare the data that all trials read.

    Returns:
        The plan, with its expected time.
    """
    plan, work, sweep = planned.plan, planned.work, planned.plan.config.sweep
    forget_orders(study)
    for sentence in warm_start(study, plan.space, sweep.warm_start, plan.config.place.study):
        console.print(sentence, markup=False, soft_wrap=True)
    studies.requeue_interrupted(study)
    if retry_failed:
        studies.retry_failed(study)
    if math.isnan(plan.seconds.mean):
        with progress_on(console) as progress:  # on all CPUs and GPUs, before trials divide them
            prepare(work.with_progress(progress), address)
        with busy_on(console, PLANNING):
            plan = make_plan(work, plan.space, planned.drawn, study, plan.at_once)
        console.print(f"time: {dict(plan.lines())['time']}", markup=False, highlight=False, soft_wrap=True)
    if sweep.sampler == PER_SECOND:
        with busy_on(console, "looking for cheap first trials"):
            queue_cheap_starts(study, plan.space, sweep.seed, sweep.trials, lambda one: _price(work, one).to_begin())
    return plan


def enqueue_trials(config: Config, file: Path, *, given: Collection[str] = (), console: Console) -> None:
    """Queue the trials of a file. A running sweep takes them next; a sweep that does not exist yet is created.

    Raises:
        ConfigError: for the reasons of `run_sweep`, or the file has settings or values that the space does not search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base = settled(config, cpus=config.sweep.cpus, gpus=config.sweep.gpu_share)
    space = keeping(load_space(config.sweep.space), config, given)
    study = studies.open_study(base, space, base.place.study, alone=driving)
    count = enqueue(study, space, base, file)
    console.print(
        f"{count} trials are queued next in the sweep {base.sweep.name}. {studies.finished(study)} trials are "
        f"finished, and the sweep ends after {base.sweep.trials} (--sweep.trials).",
        markup=False,
        soft_wrap=True,
    )


def look_at_cards(
    base: Config, address: str, console: Console, *, why_none: Callable[[], str] = lambda: "", dry_run: bool
) -> list[Cards]:
    """Return the usable GPUs of each machine, checked before any expensive work; none if trials use no GPU."""
    wait = 0.0 if address == "local" else MACHINE_SECONDS
    if not base.sweep.gpu_share or (dry_run and wait and not gpus_now()):  # a dry run starts no machine
        return []
    cards = usable_cards(wait, why_none)
    for fault in faults():
        console.print(f"not used: {fault}", markup=False, soft_wrap=True)
    return cards


def prepare(work: Workbench[Any], address: str) -> None:
    """Encode the data that trials read: on all GPUs, on a cluster by its nodes, otherwise in this process."""
    gpus = int(gpus_to_come()) if work.config.sweep.gpu_share else 0
    workers = gpus if address == "local" else max(ENCODERS, gpus)
    if workers > 1:
        make_features(work, workers=workers, gpus=1.0 if work.config.sweep.gpu_share else 0.0)
    work.prepare()


def _price(work: Workbench[Any], settings: Mapping[str, Any]) -> Price:
    """Return the price of a trial with these settings."""
    return Price(*_on_workbenches(work, [settings]))


def _on_workbenches(work: Workbench[Any], trials: Sequence[Mapping[str, Any]]) -> list[Workbench[Any]]:
    return on_workbenches(work, [with_settings(work.config, settings) for settings in trials])


def _make_experts(work: Workbench[Any], plan: Plan, study: optuna.Study, console: Console) -> None:
    """Train the experts that several queued trials read, on Ray Train's workers. Trials train the others themselves."""
    sweep = plan.config.sweep
    workers = int(min(sweep.at_once or math.inf, slots_now(sweep.cpus, sweep.gpu_share)))
    if not plan.left or not work.is_prepared or workers < 2:  # too few workers yet: the trials train the experts
        return
    with progress_on(console) as progress:
        queued = queued_settings(study, plan.space)[: plan.left]
        if not (shared := sharing_experts(_on_workbenches(work.with_progress(progress), queued))):
            return
        try:
            make_experts(shared, workers=workers, gpus=sweep.gpu_share)
        except WorkerGroupError as error:  # a recipe that diverges must fail only the trials that use it
            reason = reason_of(next(iter(error.worker_failures.values()), error))
            console.print(
                f"not all experts were trained: {reason}. Trials train the missing ones.", markup=False, soft_wrap=True
            )


def _run_trials(
    plan: Plan, work: Workbench[Any], study: optuna.Study, claims: Any, logbook: Logbook, console: Console
) -> None:
    sweep, listings = plan.config.sweep, work.opened.listings
    best = candidates(study, sweep.objectives, 1)

    def doing() -> Mapping[str, str]:
        return ray.get(claims.doing.remote(job_of(sweep)))

    def room() -> int:
        return plan.at_once or slots_to_come(sweep.cpus, sweep.gpu_share) * sweep.together

    table = LiveTable(
        sweep.name,
        sweep.trials,
        plan.done,
        at_once=plan.at_once,
        best=(best[0].number, best[0].cheap, best[0].settings) if best else None,
        expected=plan.seconds.mean,
        doing=doing,
        console=console,
    )
    with table, _trainable(for_workers(plan.config, sweep.gpu_share), listings, claims) as trial:
        run_trials(
            trial,
            study,
            plan.space,
            sweep,
            [table, logbook, Metrics(sweep.name, plan.done, best=best[0].cheap if best else None, room=room)],
            folder=tune_folder(plan.config),
            room=room,
            cost_of=(lambda one: _price(work, one).until(END)) if sweep.sampler == PER_SECOND else None,
            say=lambda message: console.print(message, markup=False, soft_wrap=True),
        )
    if studies.finished(study) < sweep.trials and (why := why_enough(study, sweep)):
        console.print(f"no more trials: {why}", markup=False, soft_wrap=True)


@contextlib.contextmanager
def _trainable(base: Config, listings: Listings, claims: Any) -> Iterator[Any]:
    """Yield the trainable that Tune runs for each trial, with the resources of a trial."""
    sweep = base.sweep
    if sweep.together == 1:
        trial = tune.with_parameters(DistillTrial, base=base, listings=listings, claims=claims)
        yield tune.with_resources(trial, {"cpu": sweep.cpus, "gpu": sweep.gpu_share})
        return
    # On the driver's node, not on a machine that may be taken back: when the desk ends, its slots end too.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    kind: Any = ray.remote(Desk)
    desk = kind.options(num_cpus=0, scheduling_strategy=here).remote(base, listings, claims)
    try:
        yield tune.with_resources(tune.with_parameters(run_errand, desk=desk), {"memory": ERRAND_BYTES})
    finally:
        with contextlib.suppress(RayActorError):  # the desk has died; the error that ends the sweep says why
            ray.get(desk.close.remote())
        ray.kill(desk)  # ends the slots too, which hold the resources that the finals need


def _draw_again(base: Config, study: optuna.Study, listings: Listings, claims: Any, console: Console) -> None:
    best = sorted(
        candidates(study, base.sweep.objectives, studies.finished(study)), key=lambda one: (-one.cheap, one.number)
    )[: base.sweep.drawn_again]
    if not best:
        return
    with doing_on(console, "new draws of the best trials") as show:
        draw_again(
            study,
            for_workers(base, base.sweep.gpu_share),
            best,
            listings,
            claims,
            cpus=base.sweep.cpus,
            say=lambda message: console.print(message, markup=False, soft_wrap=True),
            on_wait=partial(_tell_doing, show, base, claims),
        )


def _tell_doing(show: Callable[[str], None], base: Config, claims: Any) -> None:
    """Show in words what each process of the sweep is working on."""
    show(what_runs(ray.get(claims.doing.remote(job_of(base.sweep)))))


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
            f"finals of {len(best)} trials instead of {base.sweep.finalists}: only {len(best)} trials ran to "
            "completion. With --sweep.pruner none, all trials do.",
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

    with doing_on(console, "finals") as show:
        given = for_workers(base, base.sweep.gpu_share)
        tell = partial(_tell_doing, show, base, claims)
        return run_finals(given, best, listings, claims, cpus=cpus, on_end=ended, on_wait=tell)


@contextlib.contextmanager
def _refusals(console: Console) -> Iterator[LaunchFailures]:
    """Show the reasons why the cluster's autoscaler cannot start machines, as soon as they are known."""
    failures = LaunchFailures()
    with telling(failures, lambda message: console.print(message, markup=False, highlight=False, soft_wrap=True)):
        yield failures


def _tracking(config: Config, console: Console) -> Tracking:
    return Tracking(
        mlflow_address(config.place),
        home(config.place) / "mlartifacts",
        lambda message: console.print(message, markup=False, highlight=False, soft_wrap=True),
    )
