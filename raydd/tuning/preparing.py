"""Prepares a sweep: its plan, the GPUs of its trials, the data that they read, its first trials, and shared experts."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from ray.exceptions import RayError
from ray.train import TrainingFailedError
from rich.console import Console

from raydd.cluster.connect import require_room, slots_now
from raydd.cluster.gpus import (
    Cards,
    faults,
    faulty_held,
    gpu_may_come,
    gpus_now,
    gpus_to_come,
    held,
    hold,
    usable_cards,
)
from raydd.config import Config
from raydd.errors import NonFiniteError, RayddError
from raydd.progress import silent
from raydd.protocols import Workbench, open_workbench
from raydd.settings import with_settings
from raydd.terminal.busy import busy_on
from raydd.terminal.progress import progress_on
from raydd.terminal.text import count_of
from raydd.tuning import study as studies
from raydd.tuning.cheap_starts import queue_cheap_starts, queued_settings
from raydd.tuning.plan import Plan, large_enough, make_plan, open_workbenches, sharing_experts, together, with_gpu_share
from raydd.tuning.prices import Price
from raydd.tuning.samplers import PER_SECOND
from raydd.tuning.steering import forget_orders, warm_start, warm_trials
from search_spaces import Space, draw_configs
from trainables.experts import make_experts
from trainables.features import make_features

PLANNING = "planning the sweep"
ENCODERS = 8  # workers that encode a data set on a cluster, each one shard at a time


@dataclass(frozen=True)
class Planned:
    """A planned sweep."""

    plan: Plan
    work: Workbench[Any]
    """The workbench of the base settings, with the resources of a trial resolved."""
    examples: Sequence[Config]
    """Example configs of trials, drawn from the search space."""
    sources: Mapping[str, str]
    """Identities of data, encoders and own code, from `studies.sources_of`."""


def plan_sweep(
    work: Workbench[Any], space: Space, address: str, cards: Sequence[Cards], console: Console, *, dry_run: bool
) -> Planned:
    """Plan the sweep from the data, the study and the store.

    Encodes the data only if the GPU share of a trial has to be found, which depends on the widths of the features.
    """
    base = work.config
    examples = draw_configs(space, base)
    base = with_settings(base, {"sweep.together": together(base, examples)})
    if len({trial.distill.seed for trial in examples}) > 1:  # searched, so a new draw would be another trial
        base = with_settings(base, {"sweep.drawn_again": 0})
    examples = examples[0 if base.sweep.first else len(space.first) :]
    work = open_workbench(base, work.store, silent, work.opened)
    with progress_on(console) as progress:
        study = studies.find_study(base, space, base.place.study)
        warm_trials(study, base.sweep.warm_start, base.place.study)  # fail on a wrong warm start before any work
        fingerprint = work.with_progress(progress).data.fingerprint
        work.require_enough_pairs(max(config.distill.pairs for config in (base, *examples)))
    with busy_on(console, "looking at the encoders"):
        sources = studies.sources_of(base, fingerprint)
    if study:
        studies.require_same_sources(study, sources, remember=False)
    if base.sweep.gpu_share < 0:
        if not dry_run:
            with progress_on(console) as progress:
                prepare(work.with_progress(progress), address)
        widths = work.feature_widths if work.is_prepared else None  # asking for the widths would encode missing data
        large = large_enough(examples, widths, cards)
        _hold_others(cards, large, console)
        base = with_gpu_share(base, examples, widths, large)
        work = open_workbench(base, work.store, silent, work.opened)
    cpus, gpus, at_once = base.sweep.cpus, base.sweep.gpu_share, base.sweep.at_once
    if gpus >= 0:  # a dry run may leave the share open
        require_room(cpus, gpus, held())
    if not at_once and address == "local":
        at_once = slots_now(cpus, gpus, held()) * base.sweep.together
    with busy_on(console, PLANNING):
        return Planned(make_plan(work, space, examples, study, at_once), work, examples, sources)


def _hold_others(cards: Sequence[Cards], large: Sequence[Cards], console: Console) -> None:
    """Name the machines whose GPUs are too small for a trial, and keep trials from them."""
    small = [machine for machine in cards if machine not in large]
    for machine in small:
        gpus = f"{', '.join(sorted(set(machine.names)))}, {min(machine.bytes) / 1e9:.1f} GB"
        console.print(f"not used: the GPUs of {machine.host} ({gpus}) hold no trial", markup=False, soft_wrap=True)
    hold(small)


def begin_sweep(planned: Planned, study: optuna.Study, address: str, console: Console, *, retry_failed: bool) -> Plan:
    """Queue the first trials and prepare the data that all trials read.

    Returns:
        The plan, with its expected time, and with room for failed trials that are run again.
    """
    plan, work, sweep = planned.plan, planned.work, planned.plan.config.sweep
    forget_orders(study)
    for message in warm_start(study, plan.space, sweep.warm_start, plan.config.place.study):
        console.print(message, markup=False, soft_wrap=True)
    studies.requeue_interrupted(study)
    failed_count = studies.retry_failed(study) if retry_failed else 0
    if math.isnan(plan.seconds.mean):
        with progress_on(console) as progress:  # on all CPUs and GPUs, before trials divide them
            prepare(work.with_progress(progress), address)
        with busy_on(console, PLANNING):
            plan = make_plan(work, plan.space, planned.examples, study, plan.at_once)
        console.print(f"time: {dict(plan.lines())['time']}", markup=False, highlight=False, soft_wrap=True)
    if sweep.sampler == PER_SECOND:
        with busy_on(console, "looking for cheap first trials"):
            queue_cheap_starts(
                study, plan.space, sweep.seed, sweep.trials, lambda settings: price_of(work, settings).to_begin()
            )
    return _with_room_for_failed(plan, study, failed_count, console) if retry_failed else plan


def _with_room_for_failed(plan: Plan, study: optuna.Study, count: int, console: Console) -> Plan:
    """Return the plan with enough trials for the failed ones: a sweep that ran to its end has all that it asked for."""
    trial_count = max(plan.config.sweep.trials, studies.finished(study) + studies.waiting_again(study))
    if count:
        console.print(
            f"{count_of(count, 'failed trial')} to run again, of {trial_count} trials in all", highlight=False
        )
    config = with_settings(plan.config, {"sweep.trials": trial_count})
    return replace(plan, config=config, done=studies.counts(study))


@contextlib.contextmanager
def usable_gpus(base: Config, console: Console, *, dry_run: bool) -> Iterator[list[Cards]]:
    """Yield the usable GPUs of each machine, checked before any expensive work; none if trials use no GPU.

    Machines whose GPUs torch cannot use are named, and get no work inside the block.
    """
    if not base.sweep.gpu_share or (dry_run and not gpus_now() and gpu_may_come()):  # a dry run starts no machine
        yield []
        return
    cards = usable_cards()
    for fault in faults():
        console.print(f"not used: {fault}", markup=False, soft_wrap=True)
    with faulty_held():
        yield cards


def prepare(work: Workbench[Any], address: str) -> None:
    """Encode the data that trials read: on all GPUs, on a cluster by its nodes, otherwise in this process."""
    gpus = int(gpus_to_come()) if work.config.sweep.gpu_share else 0
    workers = gpus if address == "local" else max(ENCODERS, gpus)
    if workers > 1 or gpus:  # this process must not keep memory of a GPU that trials use
        make_features(work, workers=workers, gpus=1.0 if work.config.sweep.gpu_share else 0.0)
    work.prepare()


def price_of(work: Workbench[Any], settings: Mapping[str, Any]) -> Price:
    """Return the price of a trial with these settings."""
    return Price(*_open_trial_workbenches(work, [settings]))


def _open_trial_workbenches(work: Workbench[Any], trials: Sequence[Mapping[str, Any]]) -> list[Workbench[Any]]:
    return open_workbenches(work, [with_settings(work.config, settings) for settings in trials])


def make_shared_experts(work: Workbench[Any], plan: Plan, study: optuna.Study, console: Console) -> None:
    """Train the experts that several queued trials read, on Ray Train's workers. Trials train the others themselves."""
    sweep = plan.config.sweep
    workers = int(min(sweep.at_once or math.inf, slots_now(sweep.cpus, sweep.gpu_share, held())))
    if not plan.remaining or not work.is_prepared or workers < 2:  # too few workers yet: the trials train the experts
        return
    with progress_on(console) as progress:
        queued = queued_settings(study, plan.space)[: plan.remaining]
        if not (sharing := sharing_experts(_open_trial_workbenches(work.with_progress(progress), queued))):
            return
        try:
            make_experts(sharing, workers=workers, gpus=sweep.gpu_share)
        except RayddError as error:
            of_worker = isinstance(error, NonFiniteError) or isinstance(error.__cause__, TrainingFailedError | RayError)
            if not of_worker:
                raise
            # A recipe that diverges must fail only the trials that use it.
            text = f"not all experts were trained: {error} Trials train the missing ones."
            console.print(text, markup=False, soft_wrap=True)
