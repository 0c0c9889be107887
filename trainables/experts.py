"""Expert trajectories by Ray Train: each worker trains its share of the trajectories that are missing from the store.

Only the store says which trajectories are done. If a worker dies, its unfinished trajectory is lost; Ray restarts the
group, and all workers skip the trajectories in the store. If an expert diverges, the workers go on with the experts of
other recipes, and the driver names it at the end.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from raydd.cluster.environment import prepare_environment, ray_address
from raydd.config import Config
from raydd.device import use_threads
from raydd.errors import NonFiniteError
from raydd.meanwhile import meanwhile
from raydd.memory import use_gpu_share
from raydd.place import home, open_store

if TYPE_CHECKING:
    from raydd.protocols import Workbench

RESTARTS = 3  # of the group of workers, after one died
LOOK_SECONDS = 1.0  # between two checks of the store by the driver
BUCKET_LOOK_SECONDS = 15.0  # the same for a bucket, where each check of a snapshot is a request


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
        NonFiniteError: experts diverged; all recipes without such experts have been trained.
        RayddError: workers failed more often than they are restarted; the error of one, or a PlaceError that names it.
    """
    first_work = works[0]
    address = ray_address(first_work.config.place.ray)
    prepare_environment(address)
    from ray import train
    from ray.exceptions import RayError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from raydd.cluster.connect import cluster, workers_error
    from raydd.cluster.gpus import share_of_worker
    from raydd.cluster.worker_settings import tune_folder

    for work in works:
        work.prepare()
    if not (remaining := _Remaining(works)):
        return
    missing = len(remaining)
    first_work.progress("experts", 0, missing)  # Ray and the workers take some seconds to start
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster(address, home(first_work.config.place)))
        workers = min(workers, missing)
        share = stack.enter_context(share_of_worker(first_work.config, gpus, workers, address))
        jobs = _jobs(works, share)
        stack.enter_context(_progress_reported(first_work, remaining))

        class Trainer(DataParallelTrainer):
            def _register_sigint_handler(self, controller: Any) -> None:
                """Leave Ctrl-C to the command: Train's handler ends no process, and stays after the training."""

        diverged = _open_diverged()
        trainer = Trainer(
            train_share,
            train_loop_config={
                "jobs": jobs,
                "listings": first_work.opened.listings,
                "diverged": diverged,
                "gpu_share": share,
            },
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
        )
        try:
            trainer.fit()
        except (RayError, train.TrainingFailedError) as error:
            raise workers_error(error) from error
        _require_none_diverged(diverged)


class Diverged:
    """An actor that collects why experts diverged: a worker that raised the error would end all others."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def add(self, recipe: str, reason: str) -> None:
        """Note why an expert of a recipe diverged; the first reason is kept."""
        self._reasons.setdefault(recipe, reason)

    def reasons(self) -> dict[str, str]:
        """Return the reason for each recipe with an expert that diverged, by the folder of its record."""
        return self._reasons


def _open_diverged() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the driver's node, not on a machine that may be taken back.
    driver_node: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class: Any = ray.remote(num_cpus=0, scheduling_strategy=driver_node)(Diverged)
    return actor_class.remote()


def _require_none_diverged(diverged: Any) -> None:
    import ray

    reasons: Any = ray.get(diverged.reasons.remote())
    if reasons:
        raise NonFiniteError(" ".join(f"{recipe}: {reason}" for recipe, reason in sorted(reasons.items())))


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


class _Remaining:
    """The trajectories that are missing from the store."""

    def __init__(self, works: "Sequence[Workbench[Any]]") -> None:
        self._missing = [(work.open_experts(), epochs, experts) for work, epochs, experts in _missing(works)]

    def __len__(self) -> int:
        return sum(len(experts) for _, _, experts in self._missing)

    def look(self) -> None:
        """Ask the store which of them are complete now. Of each, its last snapshot is asked for first."""
        self._missing = [
            (trajectories, epochs, [expert for expert in experts if not trajectories.has_all(expert, epochs[::-1])])
            for trajectories, epochs, experts in self._missing
        ]


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
    import ray
    from ray import train

    from raydd.protocols import Opened, open_workbench

    jobs: Sequence[_Job] = loop_config["jobs"]
    context, opened, store = train.get_context(), Opened(loop_config["listings"]), open_store(jobs[0].config.place)
    diverged = loop_config["diverged"]
    use_threads(jobs[0].config.place)
    use_gpu_share(loop_config["gpu_share"])
    worker_jobs = jobs[context.get_world_rank() :: context.get_world_size()]
    for (config, epochs), group in groupby(worker_jobs, key=lambda job: (job.config, job.epochs)):
        work = open_workbench(config, store, opened=opened)
        recipe = work.experts_record.folder
        if recipe in ray.get(diverged.reasons.remote()):  # no set can be made from these experts
            continue
        try:
            work.train_experts(work.open_experts(), [job.expert for job in group], epochs)
        except NonFiniteError as error:
            ray.get(diverged.add.remote(recipe, str(error)))
    train.report({"experts": len(worker_jobs)})


def _resources(gpus: float) -> dict[str, float]:
    return {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}


@contextlib.contextmanager
def _progress_reported(work: "Workbench[Any]", remaining: _Remaining) -> Iterator[None]:
    """Report from the driver how many trajectories the store has, since workers report only at their end."""
    total = len(remaining)

    def report_progress() -> None:
        remaining.look()
        work.progress("experts", total - len(remaining), total)

    pause = LOOK_SECONDS if work.store.folder else BUCKET_LOOK_SECONDS
    try:
        with meanwhile(report_progress, pause, "experts"):
            yield
    finally:
        report_progress()
