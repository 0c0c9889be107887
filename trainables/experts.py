"""Expert trajectories by Ray Train: each worker trains what its rank owes and the store lacks.

The store is the only truth about what is done. A worker that dies takes the trajectory in its hands with it; Ray
starts the group again, and everybody passes over what is there.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from raydd.cluster.environment import prepare_environment, ray_address
from raydd.cluster.meanwhile import meanwhile
from raydd.config import Config
from raydd.place import home, open_store, use_threads

if TYPE_CHECKING:
    from raydd.protocols import Workbench

RESTARTS = 3  # of the workers, after one died
LOOK_SECONDS = 1.0  # between two looks of the driver at what the store has


@dataclass(frozen=True)
class _Job:
    """One trajectory to train."""

    config: Config
    expert: int
    epochs: tuple[int, ...]


def make_experts(works: "Sequence[Workbench[Any]]", *, workers: int, gpus: float | Literal["auto"] = "auto") -> None:
    """Train the trajectories that the store lacks on Ray Train workers.

    The workers share nothing but the list of what is missing, so they form no process group.

    Args:
        works: of settings, each with experts of its own or of others' recipe; `place.ray` of the first one names the
            cluster, and it is told how many trajectories are there.
        workers: how many share the trajectories.
        gpus: of each worker, fractions allowed; auto is its part of those that the cluster has.

    Raises:
        ConfigError: GPUs are asked for, and the cluster has none that torch can use.
        ray.train.TrainingFailedError: workers died more often than they are started again.
    """
    first = works[0]
    address = ray_address(first.config.place.ray)
    prepare_environment(address)
    from ray import train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from raydd.cluster.connect import cluster
    from raydd.cluster.gpus import share_of_worker
    from raydd.cluster.worker_settings import tune_folder

    for work in works:
        work.prepare()
    if not (missing := _lacked(works)):
        return
    first.progress("experts", 0, missing)  # Ray and the workers take some seconds to start
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster(address, home(first.config.place)))
        workers = min(workers, missing)
        share = share_of_worker(first.config, gpus, workers, address)
        jobs = _jobs(works, share)
        stack.enter_context(_telling(works, missing))

        class Trainer(DataParallelTrainer):
            def _register_sigint_handler(self, controller: Any) -> None:
                """Leave Ctrl-C to the command: Train's handler ends no process, and stays when the training is over."""

        Trainer(
            train_share,
            train_loop_config={"jobs": jobs, "listings": first.opened.listings},
            scaling_config=train.ScalingConfig(
                num_workers=workers,
                use_gpu=share > 0,
                resources_per_worker=_resources(share),
            ),
            run_config=train.RunConfig(
                name="experts",
                storage_path=tune_folder(jobs[0].config),
                failure_config=train.FailureConfig(max_failures=RESTARTS),
            ),
        ).fit()


def _missing(works: "Sequence[Workbench[Any]]") -> "Iterator[tuple[Workbench[Any], tuple[int, ...], list[int]]]":
    """Each recipe once: a workbench of it, the epochs that any of its works reads, the experts that lack some."""
    recipes: dict[str, Workbench[Any]] = {}
    epochs: dict[str, set[int]] = {}
    for work in works:
        name = work.experts_record.fingerprint
        recipes.setdefault(name, work)
        epochs.setdefault(name, set()).update(work.config.distill.expert_epochs)
    for name, work in recipes.items():
        yield work, tuple(sorted(epochs[name])), work.open_experts().missing(epochs[name])


def _lacked(works: "Sequence[Workbench[Any]]") -> int:
    """How many trajectories the store lacks."""
    return sum(len(experts) for _, _, experts in _missing(works))


def _jobs(works: "Sequence[Workbench[Any]]", gpus: float) -> list[_Job]:
    """The trajectories that the store lacks, as workers make them."""
    from raydd.cluster.worker_settings import for_workers, settled

    found = []
    for work, epochs, experts in _missing(works):
        config = for_workers(settled(work.config, cpus=1, gpus=gpus), gpus)
        found += [_Job(config, expert, epochs) for expert in experts]
    return found


def train_share(given: Mapping[str, Any]) -> None:
    """Train what this worker's rank owes of the `jobs`; runs in a Ray Train worker.

    It reports once, at the end: a report waits for those of all other workers.
    """
    from ray import train

    from raydd.protocols import Opened, open_workbench

    jobs: Sequence[_Job] = given["jobs"]
    context, opened, store = train.get_context(), Opened(given["listings"]), open_store(jobs[0].config.place)
    use_threads(jobs[0].config.place)
    mine = jobs[context.get_world_rank() :: context.get_world_size()]
    for (config, epochs), alike in groupby(mine, key=lambda job: (job.config, job.epochs)):
        work = open_workbench(config, store, opened=opened)
        work.train_experts(work.open_experts(), [job.expert for job in alike], epochs)
    train.report({"experts": len(mine)})


def _resources(gpus: float) -> dict[str, float]:
    return {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}


@contextlib.contextmanager
def _telling(works: "Sequence[Workbench[Any]]", total: int) -> Iterator[None]:
    """Tell from the driver how many trajectories the store has, since workers report at their end alone."""

    def tell() -> None:
        works[0].progress("experts", total - _lacked(works), total)

    try:
        with meanwhile(tell, LOOK_SECONDS, "experts"):
            yield
    finally:
        tell()
