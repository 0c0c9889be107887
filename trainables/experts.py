"""Expert trajectories by Ray Train: each worker trains what its rank owes and the store lacks.

The store is the only truth about what is done. A worker that dies takes the trajectory in its hands with it; Ray
starts the group again, and everybody passes over what is there.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from raydd.cluster.environment import prepare_environment, ray_address
from raydd.config import Config
from raydd.place import home, open_store, use_threads

if TYPE_CHECKING:
    from raydd.protocols import Workbench

RESTARTS = 3  # of the workers, after one died
LOOK_SECONDS = 1.0  # between two looks of the driver at what the store has


def make_experts(work: "Workbench[Any]", *, workers: int, gpus: float = 0.0) -> None:
    """Train the trajectories that the store lacks on Ray Train workers.

    Args:
        work: of the settings; `place.ray` names the cluster. It is told how many trajectories are there.
        workers: how many share the trajectories.
        gpus: of each worker, fractions allowed.

    Raises:
        ray.train.TrainingFailedError: workers died more often than they are started again.
    """
    config = work.config
    address = ray_address(config.place.ray)
    prepare_environment(address)
    from ray import train
    from ray.train.torch import TorchTrainer

    from raydd.cluster.connect import cluster
    from raydd.cluster.worker_settings import settled, tune_folder, without_passwords

    work.prepare()
    if not (missing := work.missing_experts):
        return
    config = without_passwords(settled(config, cpus=1, gpus=gpus))
    with cluster(address, home(config.place)), _telling(work):
        TorchTrainer(
            train_share,
            train_loop_config={"config": config, "missing": missing, "listings": work.opened.listings},
            scaling_config=train.ScalingConfig(
                num_workers=min(workers, len(missing)), use_gpu=gpus > 0, resources_per_worker=_resources(gpus)
            ),
            run_config=train.RunConfig(
                name="experts",
                storage_path=tune_folder(config),
                failure_config=train.FailureConfig(max_failures=RESTARTS),
            ),
        ).fit()


def train_share(given: Mapping[str, Any]) -> None:
    """Train what this worker's rank owes of the `missing` trajectories; runs in a Ray Train worker.

    It reports once, at the end: a report waits for those of all other workers.
    """
    from ray import train

    from raydd.protocols import Opened, open_workbench

    config: Config = given["config"]
    use_threads(config.place)
    work, context = (
        open_workbench(config, open_store(config.place), opened=Opened(given["listings"])),
        train.get_context(),
    )
    experts = work.open_experts()
    mine = given["missing"][context.get_world_rank() :: context.get_world_size()]
    for expert in mine:
        work.train_expert(experts, expert, config.distill.expert_epochs)
    train.report({"experts": len(mine)})


def _resources(gpus: float) -> dict[str, float]:
    return {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}


@contextlib.contextmanager
def _telling(work: "Workbench[Any]") -> Iterator[None]:
    """Tell from the driver how many trajectories the store has, since workers report at their end alone."""
    opened, over = work.open_experts(), threading.Event()

    def tell() -> None:
        missing = opened.missing(work.config.distill.expert_epochs)
        work.progress("experts", opened.count - len(missing), opened.count)

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            tell()

    thread = threading.Thread(target=look, name="experts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tell()
