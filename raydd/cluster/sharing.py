"""Opens the workbench of a Ray worker, which shares the making of features and experts with other workers."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from raydd.cluster.claims import Claimant, wait_for_others
from raydd.config import Config
from raydd.device import use_threads
from raydd.distill.trajectories import Trajectories
from raydd.memory import use_gpu_share
from raydd.place import open_store
from raydd.protocols import Listings, Opened, Workbench, open_workbench
from raydd.store import fingerprint


@dataclass(frozen=True)
class Shared:
    """What a driver gives to all its Ray workers."""

    job: str
    """Prefix of the names of the job's holders: another job on the same store may have a trial 3 too."""
    listings: Listings
    """The data sets that the driver has read, so that no worker has to read them again."""
    claims: Any
    """Handle of the actor of `raydd.cluster.claims`."""

    def doing(self) -> Mapping[str, str]:
        """Return what each worker of the job said last that it is doing."""
        return ray.get(self.claims.doing.remote(self.job))


@contextlib.contextmanager
def shared_work(config: Config, label: str, shared: Shared) -> Iterator[Workbench[Any]]:
    """Open the workbench of a Ray worker, with all features in the store.

    Experts are trained or waited for only when a distillation step reads them, so that a trial that is stopped early
    waits for few experts.

    Args:
        config: all settings, with every place filled in.
        label: what the workbench is for, in words for the terminal.
        shared: what the driver gave to all its workers.
    """
    with joined_work(config, label, shared) as (work, claimant):
        share_features(work, claimant)
        yield work


@contextlib.contextmanager
def joined_work(config: Config, label: str, shared: Shared) -> Iterator[tuple[Workbench[Any], Claimant]]:
    """Open the workbench of a Ray worker without making any features; also yield the worker's side of the ledger.

    Experts are trained or waited for when a distillation step reads them, also for workbenches that are derived from
    this one with other settings.

    Args:
        config: as in `shared_work`, like the other arguments.
    """
    with claiming_work(config, label, shared) as (work, claimant):
        work.opened.fetch = functools.partial(_fetch_expert, claimant)
        yield work, claimant


@contextlib.contextmanager
def claiming_work(config: Config, label: str, shared: Shared) -> Iterator[tuple[Workbench[Any], Claimant]]:
    """Open the workbench of a Ray worker that shares nothing on its own; also yield the worker's side of the ledger.

    Args:
        config: as in `shared_work`, like the other arguments.
    """
    use_threads(config.place)
    if ray.is_initialized():
        use_gpu_share(ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0))
    with Claimant(shared.claims, f"{shared.job}: {label}") as claimant:
        yield open_workbench(config, open_store(config.place), claimant.progress, Opened(shared.listings)), claimant


def share_making(work: Workbench[Any], claimant: Claimant) -> None:
    """Bring all features and experts that a distillation reads into the store, shared with other workers."""
    share_features(work, claimant)
    experts = work.open_experts()
    _share_experts(work, claimant, experts, range(experts.count))


def share_features(work: Workbench[Any], claimant: Claimant) -> None:
    """Bring the features into the store; among workers that need the same features, only one makes them."""
    config = work.config
    sections = {"data": config.data, "encoders": config.encoders, "features": config.features}
    with claimant.waiting_for(f"features {fingerprint('features', 1, sections, {})}"):
        work.prepare()


def _fetch_expert(claimant: Claimant, work: Workbench[Any], experts: Trajectories[Any], expert: int) -> None:
    # While another worker trains the expert, train an earlier one, which is needed sooner or later too. Experts that
    # train side by side take as long as one.
    others = range(expert) if work.experts_at_once == 1 else range(experts.count)
    _share_experts(work, claimant, experts, [expert], others)


def _share_experts(
    work: Workbench[Any],
    claimant: Claimant,
    experts: Trajectories[Any],
    needed: Sequence[int],
    others: Sequence[int] = (),
) -> None:
    """Bring the needed experts into the store; train those that can be claimed, or if none can, some of `others`."""
    epochs = work.config.distill.expert_epochs
    while any(not experts.has_all(expert, epochs) for expert in needed):
        candidates = dict.fromkeys((*needed, *others))
        missing = [expert for expert in candidates if not experts.has_all(expert, epochs)]
        if not _train_unclaimed(work, experts, claimant, missing):
            wait_for_others()


def _train_unclaimed(
    work: Workbench[Any], experts: Trajectories[Any], claimant: Claimant, missing: Sequence[int]
) -> bool:
    """Train the first experts that no other worker trains, as many as train at once; return whether there were any."""
    with contextlib.ExitStack() as claims:
        claimed = list[int]()
        for expert in missing:
            if claims.enter_context(claimant.holding(f"experts {experts.record.fingerprint} {expert}")):
                claimed.append(expert)
                if len(claimed) == work.experts_at_once:
                    break
        if claimed:
            work.train_experts(experts, claimed, work.config.distill.expert_epochs)
    return bool(claimed)
