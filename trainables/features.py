"""The feature cache of a large data set by Ray Data: a pool of actors encodes shards and writes them to the store.

A shard is a file of 512 images or 16,384 captions. An actor holds both encoders and takes the next missing shards,
several in a row, since the processes that decode images for a GPU are restarted for each row. No feature passes through
Ray. If an actor dies, its unfinished shard is lost: the actor is restarted, and makes the missing shards of its row.
"""

import contextlib
import functools
import itertools
import logging
import pickle
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from raydd.cluster.environment import prepare_environment, ray_address
from raydd.config import Config
from raydd.data.checking import Judged, judge
from raydd.data.images import ImageSource
from raydd.device import device_of, use_threads
from raydd.memory import return_freed_blocks, use_gpu_share
from raydd.place import home, open_store

if TYPE_CHECKING:
    from raydd.data.feature_shards import Shard
    from raydd.protocols import Workbench

RESTARTS = 3  # of an actor that died, and of its row of shards
IN_A_ROW = 8  # shards that an actor takes at once, if there are several rows per actor: three to five seconds on a GPU
_ROWS = 4  # minimum per actor, so that no actor works much longer than the others at the end


@contextlib.contextmanager
def shared_by_workers(work: "Workbench[Any]") -> "Iterator[Workbench[Any]]":
    """Connect to Ray inside the block, and yield a workbench whose images are checked by the cluster's CPUs."""
    address = ray_address(work.config.place.ray)
    prepare_environment(address)
    from raydd.cluster.connect import cluster
    from raydd.protocols import Opened, open_workbench

    with cluster(address, home(work.config.place)):
        yield open_workbench(work.config, work.store, work.progress, Opened(check=check_on_workers))


def make_features(work: "Workbench[Any]", *, workers: int, gpus: float | Literal["auto"] = "auto") -> None:
    """Write the shards that are missing from the store, with a pool of actors. The caller then completes the record.

    Args:
        work: the workbench, which receives the progress; `place.ray` names the cluster.
        workers: maximum number of actors; fewer if the cluster has no room for them.
        gpus: GPUs per actor, fractions allowed; auto is an equal share of the cluster's GPUs.

    Raises:
        ConfigError: GPUs are requested, but the cluster has none that torch can use.
        RayddError: a shard cannot be made; the actor's error, or a PlaceError that names it.
    """
    config, store = work.config, work.store
    address = ray_address(config.place.ray)
    prepare_environment(address)
    from ray.exceptions import RayError

    from raydd.cluster.connect import cluster, workers_error
    from raydd.cluster.gpus import cores_beside, share_of_worker
    from raydd.cluster.worker_settings import for_workers, settled
    from raydd.data import feature_records, shards_of
    from raydd.protocols import cached

    records, kinds = feature_records(config, work.data.fingerprint, store), cached(config)
    shards = [shard for shard in shards_of(work.data) if shard.kind in kinds and not records.of(shard).complete]
    missing = [shard for shard in shards if not records.of(shard).has(shard.file)]
    if not missing:
        return
    workers = min(workers, len(missing))
    with cluster(address, home(config.place)), share_of_worker(config, gpus, workers, address) as share:
        cores = cores_beside(share)  # CPU cores that decode images for a GPU
        config = for_workers(settled(config, cpus=cores, gpus=share), share)
        done = len(shards) - len(missing)
        work.progress("shards of features", done, len(shards))
        try:
            for row in _encode_rows(config, work.data.listing, _rows(missing, workers), workers, cores, share):
                if row["failure"]:
                    raise pickle.loads(row["failure"])
                done += len(row["files"])
                work.progress("shards of features", done, len(shards))
        except RayError as error:  # actors died
            raise workers_error(error) from error


def _rows(missing: "Sequence[Shard]", workers: int) -> list[list[str]]:
    """Return rows of files, each of one split and one kind, that an actor writes one after another."""
    from raydd.data.encoding import batches_of

    size = min(IN_A_ROW, max(1, len(missing) // (_ROWS * workers)))
    file_groups = [
        [shard.file for shard in group]
        for _, group in itertools.groupby(missing, lambda shard: (shard.split, shard.kind))
    ]
    return [row for files in file_groups for row in batches_of(files, size)]


def _encode_rows(
    config: Config, listing: str, rows: list[list[str]], workers: int, cpus: int, gpus: float
) -> Iterator[Any]:
    """Yield the rows as they are written. The driver holds the list: a task that read it would wait for the actors."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=workers, max_tasks_in_flight_per_actor=1)
    dataset = ray.data.from_items([{"files": row} for row in rows], override_num_blocks=len(rows))
    encode: Any = ShardEncoderActor  # Ray's types allow only functions
    written_rows = dataset.map(
        encode,
        fn_constructor_args=(config, listing, gpus),
        compute=pool,
        num_cpus=cpus,
        num_gpus=gpus,
        ray_remote_args_fn=lambda: {"max_restarts": RESTARTS, "max_task_retries": RESTARTS},
    )
    return iter(written_rows.iter_rows())


class ShardEncoderActor:
    """An actor of the pool. It returns errors instead of raising them, since Ray Data passes on only their text."""

    def __init__(self, config: Config, listing: str, gpu_share: float) -> None:
        self._encoder = functools.cache(functools.partial(ShardEncoder, config, listing, gpu_share))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the missing shards of a row, and return the row with its `failure`: a pickled RayddError, or empty."""
        from raydd.cluster.connect import workers_error

        try:
            return {**self._encoder()(row), "failure": b""}
        except Exception as error:
            failure = workers_error(error)
            failure.add_note(f"In the worker:\n{traceback.format_exc()}")  # which --debug shows
            return {**row, "failure": pickle.dumps(failure)}


class ShardEncoder:
    """Writes shards, with both encoders and the data set's listing, which has the same path on each node."""

    def __init__(self, config: Config, listing: str, gpu_share: float = 0.0) -> None:
        from raydd.data import feature_records, load_image_encoder, load_text_encoder, open_data, shards_of

        use_threads(config.place)
        use_gpu_share(gpu_share)
        store, device = open_store(config.place), device_of(config.place)
        self._config, self._data = config, open_data(listing, config.data, store)
        self._records = feature_records(config, self._data.fingerprint, store)
        self._shards = {shard.file: shard for shard in shards_of(self._data)}
        self._image_encoder = functools.cache(functools.partial(load_image_encoder, config.encoders, device))
        self._text_encoder = functools.cache(functools.partial(load_text_encoder, config.encoders, device))

    def __call__(self, row: dict[str, Sequence[str]]) -> dict[str, Sequence[str]]:
        """Write the missing shards of a row."""
        from raydd.data import write_images, write_texts

        files = {str(file) for file in row["files"]}
        first_shard = self._shards[min(files)]
        arguments = self._config, self._data, self._records.of(first_shard)
        if first_shard.kind == "images":
            write_images(*arguments, self._image_encoder, splits=(first_shard.split,), only=files)
        else:
            write_texts(*arguments, self._text_encoder, only=files)
        return_freed_blocks()  # images, captions and their files leave free blocks of different sizes
        return row


IMAGES = 128  # per task: a few seconds of work, so that a lost node costs little


def check_on_workers(images: Sequence[ImageSource]) -> Iterator[Judged]:
    """Check images on the CPUs of the connected cluster; yields the results in the order of the images.

    Raises:
        RayddError: a batch cannot be checked; the task's error, or a PlaceError that names it.
    """
    import ray
    from ray.exceptions import RayError

    from raydd.cluster.connect import workers_error
    from raydd.data.encoding import batches_of

    task = ray.remote(num_cpus=1)(_judge_all)
    try:
        checked = ray.get([task.remote(batch) for batch in batches_of(images, IMAGES)])
    except RayError as error:
        raise workers_error(error) from error
    for judged in checked:
        yield from judged


def _judge_all(images: Sequence[ImageSource]) -> list[Judged]:
    return [judge(image) for image in images]
