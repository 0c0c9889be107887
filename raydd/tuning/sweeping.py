"""Runs a sweep from its plan to its result, by composing the modules of this package."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from raydd.cluster.claims import open_claims
from raydd.cluster.connect import cluster, share_of_node, slots_to_come
from raydd.cluster.gpus import Cards, held, wanted_gpus
from raydd.cluster.sharing import Shared
from raydd.cluster.worker_settings import for_workers, settled, tune_folder
from raydd.config import Config
from raydd.data.checking import check_on_threads
from raydd.meanwhile import meanwhile
from raydd.place import home, mlflow_address, open_store
from raydd.progress import silent
from raydd.protocols import Opened, Workbench, open_workbench
from raydd.settings import with_settings
from raydd.terminal.busy import busy_on, doing_on
from raydd.terminal.text import count_of
from raydd.tracking.runs import Tracking
from raydd.tuning import study as studies
from raydd.tuning.finals import Candidate, Finalist, run_finals
from raydd.tuning.lease import driving, require_undriven
from raydd.tuning.live import LiveTable, what_runs
from raydd.tuning.logbook import Logbook
from raydd.tuning.metrics import Metrics
from raydd.tuning.plan import Plan
from raydd.tuning.preparing import begin_sweep, make_shared_experts, plan_sweep, price_of, usable_gpus
from raydd.tuning.prices import END
from raydd.tuning.redraws import draw_again
from raydd.tuning.results import RESULT, SETTINGS, SweepResult, candidates, conclude, importances
from raydd.tuning.samplers import PER_SECOND, find_sampler
from raydd.tuning.steering import enqueue, open_sweep, turn_after, why_enough
from raydd.tuning.trials import run_trials
from search_spaces import Space, draw_configs, load_space, with_fixed_settings
from trainables.distill import DistillTrial
from trainables.errand import ERRAND_BYTES, run_errand
from trainables.features import check_on_workers
from trainables.slot import Desk

_IDLE_LOOK_SECONDS = 30.0  # between two looks for slots that have been empty for long


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
    space = _checked_space(config, given)
    _require_startable(config, space, dry_run=dry_run)
    # Tracking is closed last: the trials of an interrupted sweep must not keep running while its queue is sent.
    with (
        contextlib.ExitStack() as closing,
        _open_tracking(config, console) as tracking,
        contextlib.ExitStack() as stack,
    ):
        base, cards = _join_cluster(config, address, stack, console, dry_run=dry_run)
        # On a cluster, the nodes check the images of a new data set; a dry run starts no node, so it checks them here.
        checks_here = address == "local" or dry_run
        opened = Opened(check=check_on_threads if checks_here else check_on_workers)
        work = open_workbench(base, open_store(config.place), silent, opened)
        planned = plan_sweep(work, space, address, cards, console, dry_run=dry_run)
        console.print(planned.plan.table())
        if dry_run:
            return None
        study = open_sweep(planned.work.config, space)
        studies.require_same_sources(study, planned.sources, remember=True)
        with driving(study):
            plan = begin_sweep(planned, study, address, console, retry_failed=retry_failed)
            make_shared_experts(planned.work, plan, study, console)
            sweep = _drive(plan, planned.work, study, opened, tracking, console)
            _run_trials(sweep)
            _draw_again(sweep)
            finalists, failed_finals = _run_finals(sweep, threads=config.place.threads)
            closing.enter_context(busy_on(console, "stopping Ray and sending the remaining data to MLflow"))
            result = conclude(study, config, finalists, failed_finals)
            sweep.logbook.concluded(result, importances(study, sweep.base.sweep.objectives))
    _keep(result, home(config.place) / "sweeps" / result.name, console)
    return result


def enqueue_trials(config: Config, file: Path, *, given: Collection[str] = (), console: Console) -> None:
    """Queue the trials of a file behind those that wait. A sweep that does not exist yet is created.

    Raises:
        ConfigError: for the reasons of `run_sweep`, or the file has settings or values that the space does not search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base = settled(config, cpus=config.sweep.cpus, gpus=config.sweep.gpu_share)
    space = with_fixed_settings(load_space(config.sweep.space), config, given)
    study = open_sweep(base, space)
    turn = turn_after(len(studies.waiting(study)))
    count = enqueue(study, space, base, file)
    console.print(
        f"{count_of(count, 'trial')} queued: the sweep {base.sweep.name} tries them {turn}. "
        f"{studies.finished(study)} of its {base.sweep.trials} trials (--sweep.trials) are finished.",
        markup=False,
        soft_wrap=True,
    )


@dataclass(frozen=True)
class _DrivenSweep:
    """A planned sweep that this process drives."""

    plan: Plan
    work: Workbench[Any]
    study: optuna.Study
    shared: Shared
    logbook: Logbook
    console: Console

    @property
    def base(self) -> Config:
        """The settings that all trials share."""
        return self.plan.config

    def say(self, message: str) -> None:
        """Print a message."""
        self.console.print(message, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def showing(self, activity: str) -> Iterator[Callable[[], None]]:
        """Show that the block is at work; yields a function that shows what each process is working on now."""
        with doing_on(self.console, activity) as show:
            yield lambda: show(what_runs(self.shared.doing()))


def _checked_space(config: Config, given: Collection[str]) -> Space:
    """Load the search space without the settings that flags set; a wrong space or sampler fails before Ray starts."""
    space = load_space(config.sweep.space)
    draw_configs(space, config)
    find_sampler(config.sweep.sampler)(config.sweep.seed)
    return with_fixed_settings(space, config, given)


def _require_startable(config: Config, space: Space, *, dry_run: bool) -> None:
    """Refuse other settings than the sweep was started with, and a second driver, before Ray or a machine starts.

    Both are checked again later, since another process may begin the sweep in the meantime.
    """
    base = settled(config, cpus=config.sweep.cpus, gpus=config.sweep.gpu_share)
    study = studies.find_study(base, space, base.place.study)
    if study and not dry_run:
        require_undriven(study)


def _join_cluster(
    config: Config, address: str, stack: contextlib.ExitStack, console: Console, *, dry_run: bool
) -> tuple[Config, list[Cards]]:
    """Join Ray until the stack closes; return the settings as its workers take them, and the GPUs that they can use."""
    with busy_on(console, "starting Ray"):
        stack.enter_context(cluster(address, home(config.place), _printing(console)))
    base = with_settings(config, {"sweep.gpus": wanted_gpus(config, address)})
    base = settled(base, cpus=base.sweep.cpus, gpus=base.sweep.gpu_share)
    waiting = busy_on(console, "waiting for a machine with a GPU") if base.sweep.gpu_share else contextlib.nullcontext()
    with waiting:
        return base, stack.enter_context(usable_gpus(base, console, dry_run=dry_run))


def _drive(
    plan: Plan, work: Workbench[Any], study: optuna.Study, opened: Opened, tracking: Tracking, console: Console
) -> _DrivenSweep:
    """Take the wheel of a sweep: MLflow gets what earlier commands could not send, and trials share their claims."""
    logbook = Logbook(tracking, studies.study_id(study), work)
    logbook.catch_up(study)
    shared = Shared(f"sweep {work.config.sweep.name}", opened.listings, open_claims(work.store.root))
    return _DrivenSweep(plan, work, study, shared, logbook, console)


def _keep(result: SweepResult, folder: Path, console: Console) -> None:
    """Write the result and the settings found, and show them."""
    result.write(folder)
    console.print(result.tables())
    console.print(f"kept in {folder}: {RESULT}, {SETTINGS}", soft_wrap=True)


def _run_trials(sweep: _DrivenSweep) -> None:
    plan, study, settings = sweep.plan, sweep.study, sweep.base.sweep
    best = candidates(study, settings.objectives)

    def capacity() -> int:
        return plan.at_once or slots_to_come(settings.cpus, settings.gpu_share, held()) * settings.together

    table = LiveTable(
        settings.name,
        settings.trials,
        plan.done,
        best=(best[0].number, best[0].cheap, best[0].settings) if best else None,
        expected=plan.seconds_at_once(capacity()),
        doing=sweep.shared.doing,
        console=sweep.console,
    )
    metrics = Metrics(settings.name, plan.done, best=best[0].cheap if best else None, capacity=capacity)
    with table, _trainable(for_workers(sweep.base, settings.gpu_share), sweep.shared) as trial:
        run_trials(
            trial,
            study,
            plan.space,
            settings,
            [table, sweep.logbook, metrics],
            folder=tune_folder(sweep.base),
            capacity=capacity,
            cost_of=(lambda params: price_of(sweep.work, params).until(END))
            if settings.sampler == PER_SECOND
            else None,
            say=sweep.say,
        )
    if studies.finished(study) < settings.trials and (reason := why_enough(study, settings)):
        sweep.say(f"no more trials: {reason}")


@contextlib.contextmanager
def _trainable(base: Config, shared: Shared) -> Iterator[Any]:
    """Yield the trainable that Tune runs for each trial, with the resources of a trial."""
    sweep = base.sweep
    if sweep.together == 1:
        trial = tune.with_parameters(DistillTrial, base=base, shared=shared)
        yield tune.with_resources(trial, {"cpu": sweep.cpus, "gpu": sweep.gpu_share})
        return
    # On the driver's node, not on a machine that may be taken back: when the desk ends, its slots end too.
    driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class: Any = ray.remote(Desk)
    desk = actor_class.options(num_cpus=0, scheduling_strategy=driver_node).remote(base, shared, held())

    def end_idle_slots() -> None:
        desk.end_idle.remote()

    try:
        with meanwhile(end_idle_slots, _IDLE_LOOK_SECONDS, "idle slots"):
            yield tune.with_resources(tune.with_parameters(run_errand, desk=desk), {"memory": ERRAND_BYTES})
    finally:
        with contextlib.suppress(RayActorError):  # the desk has died; the error that ends the sweep says why
            ray.get(desk.close.remote())
        ray.kill(desk)  # ends the slots too, which hold the resources that the finals need


def _draw_again(sweep: _DrivenSweep) -> None:
    settings = sweep.base.sweep
    complete = candidates(sweep.study, settings.objectives)
    best = sorted(complete, key=lambda candidate: (-candidate.cheap, candidate.number))[: settings.drawn_again]
    if not best:
        return
    worker_config = for_workers(sweep.base, settings.gpu_share)
    with sweep.showing("new draws of the best trials") as show:
        draw_again(sweep.study, worker_config, best, sweep.shared, cpus=settings.cpus, say=sweep.say, on_wait=show)


def _run_finals(sweep: _DrivenSweep, *, threads: int) -> tuple[list[Finalist], dict[int, str]]:
    """Run the finals; return the finalists, and why the other finals failed, by the trial's number.

    `threads` is the user's `place.threads`; 0 gives each final its share of the cores.
    """
    settings = sweep.base.sweep
    best = candidates(sweep.study, settings.objectives)[: settings.finalists]
    if len(best) < settings.finalists:
        sweep.say(
            f"finals of {count_of(len(best), 'trial')} instead of {settings.finalists}: no more trials ran to "
            "completion. With --sweep.pruner none, all trials do."
        )
    failed: dict[int, str] = {}
    if not best:
        return [], failed
    cpus = share_of_node(settings.cpus, len(best))
    worker_config = for_workers(sweep.base, settings.gpu_share)
    worker_config = with_settings(worker_config, {"place.threads": threads or max(1, int(cpus))})

    def ended(candidate: Candidate, finalist: Finalist | None, reason: str) -> None:
        if finalist is None:
            failed[candidate.number] = reason
            sweep.say(f"the final of trial {candidate.number} failed: {reason}")
            return
        sweep.logbook.final(finalist)
        sweep.console.print(
            f"final of trial {finalist.number}: val {finalist.r_mean:.2f}, test {finalist.test['r_mean']['mean']:.2f}",
            highlight=False,
        )

    with sweep.showing("finals") as show:
        return run_finals(worker_config, best, sweep.shared, cpus=cpus, on_end=ended, on_wait=show), failed


def _open_tracking(config: Config, console: Console) -> Tracking:
    return Tracking(mlflow_address(config.place), home(config.place) / "mlartifacts", _printing(console))


def _printing(console: Console) -> Callable[[str], None]:
    return functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
