"""Expert trajectories by Ray Train: each worker trains its share of the trajectories that are missing from the store.

Only the store says which trajectories are done. If a worker dies, its unfinished trajectory is lost; Ray restarts the
group, and all workers skip the trajectories in the store.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from raydd.cluster.environment import prepare_environment, ray_address
from raydd.config import Config
from raydd.device import use_threads
from raydd.meanwhile import meanwhile
from raydd.memory import use_gpu_share
from raydd.place import home, open_store

if TYPE_CHECKING:
    from raydd.protocols import Workbench

RESTARTS = 3  # of the group of workers, after one died
LOOK_SECONDS = 1.0  # between two checks of the store by the driver


@dataclass(frozen=True)
class _Job:
    """One trajectory to train."""

    config: Config
    expert: int
    epochs: tuple[int, ...]


def make_experts(works: "Sequence[Workbench[Any]]", *, workers: int, gpus: float | Literal["auto"] = "auto") -> None:
    """Train the trajectories that are missing from the store on Ray Train workers.

    The workers share only the list of missing trajectories, so they form no process group.

    Args:
        works: workbenches, which may have the same or different experts. `place.ray` of the first one names the
            cluster, and the first one receives the progress.
        workers: number of workers that share the trajectories.
        gpus: GPUs per worker, fractions allowed; auto is an equal share of the cluster's GPUs.

    Raises:
        ConfigError: GPUs are requested, but the cluster has none that torch can use.
        ray.train.TrainingFailedError: workers died more often than they are restarted.
    """
    first_work = works[0]
    address = ray_address(first_work.config.place.ray)
    prepare_environment(address)
    from ray import train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from raydd.cluster.connect import cluster
    from raydd.cluster.gpus import share_of_worker
    from raydd.cluster.worker_settings import tune_folder

    for work in works:
        work.prepare()
    if not (missing := _count_missing(works)):
        return
    first_work.progress("experts", 0, missing)  # Ray and the workers take some seconds to start
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster(address, home(first_work.config.place)))
        workers = min(workers, missing)
        share = stack.enter_context(share_of_worker(first_work.config, gpus, workers, address))
        jobs = _jobs(works, share)
        stack.enter_context(_progress_reported(works, missing))

        class Trainer(DataParallelTrainer):
            def _register_sigint_handler(self, controller: Any) -> None:
                """Leave Ctrl-C to the command: Train's handler ends no process, and stays after the training."""

        Trainer(
            train_share,
            train_loop_config={"jobs": jobs, "listings": first_work.opened.listings, "gpu_share": share},
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
    """Yield for each recipe: the workbench of most experts, the epochs that any workbench reads, incomplete experts."""
    recipes: dict[str, Workbench[Any]] = {}
    epochs: dict[str, set[int]] = {}
    for work in sorted(works, key=lambda work: work.config.experts.count):
        fingerprint = work.experts_record.fingerprint
        recipes[fingerprint] = work
        epochs.setdefault(fingerprint, set()).update(work.config.distill.expert_epochs)
    for fingerprint, work in recipes.items():
        yield work, tuple(sorted(epochs[fingerprint])), work.open_experts().missing(epochs[fingerprint])


def _count_missing(works: "Sequence[Workbench[Any]]") -> int:
    """Return the number of trajectories that are missing from the store."""
    return sum(len(experts) for _, _, experts in _missing(works))


def _jobs(works: "Sequence[Workbench[Any]]", gpus: float) -> list[_Job]:
    """Return the trajectories that are missing from the store, as jobs for workers."""
    from raydd.cluster.worker_settings import for_workers, settled

    jobs = []
    for work, epochs, experts in _missing(works):
        config = for_workers(settled(work.config, cpus=1, gpus=gpus), gpus)
        jobs += [_Job(config, expert, epochs) for expert in experts]
    return jobs


def train_share(loop_config: Mapping[str, Any]) -> None:
    """Train this worker's share of the `jobs`, by its rank; runs in a Ray Train worker.

    The worker reports only once, at the end, because a report waits for the reports of all other workers.
    """
    from ray import train

    from raydd.protocols import Opened, open_workbench

    jobs: Sequence[_Job] = loop_config["jobs"]
    context, opened, store = train.get_context(), Opened(loop_config["listings"]), open_store(jobs[0].config.place)
    use_threads(jobs[0].config.place)
    use_gpu_share(loop_config["gpu_share"])
    worker_jobs = jobs[context.get_world_rank() :: context.get_world_size()]
    for (config, epochs), group in groupby(worker_jobs, key=lambda job: (job.config, job.epochs)):
        work = open_workbench(config, store, opened=opened)
        work.train_experts(work.open_experts(), [job.expert for job in group], epochs)
    train.report({"experts": len(worker_jobs)})


def _resources(gpus: float) -> dict[str, float]:
    return {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}


@contextlib.contextmanager
def _progress_reported(works: "Sequence[Workbench[Any]]", total: int) -> Iterator[None]:
    """Report from the driver how many trajectories the store has, since workers report only at their end."""

    def report_progress() -> None:
        works[0].progress("experts", total - _count_missing(works), total)

    try:
        with meanwhile(report_progress, LOOK_SECONDS, "experts"):
            yield
    finally:
        report_progress()
