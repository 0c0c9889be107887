"""The feature cache of a large data set by Ray workers: each encodes shards, straight into the store.

A shard is a file of 512 images or 16,384 captions. Whoever is free takes the next one that the store lacks, and holds
no more than it in memory. A worker that dies takes the shard in its hands with it, which is given to another.
"""

from raydd.config import Config
from raydd.place import device_of, home, open_store, use_threads
from raydd.progress import Progress, silent
from raydd.tuning.environment import prepare_environment, ray_address

RESTARTS = 3  # of a worker, and of a shard


def make_features(config: Config, *, workers: int, gpus: float = 0.0, progress: Progress = silent) -> None:
    """Write the shards that the store lacks on Ray workers; `raydd.stages.features` then has only to conclude.

    Args:
        config: all settings; `place.ray` names the cluster.
        workers: how many encode side by side.
        gpus: of each worker, fractions allowed.
        progress: told how many shards are there.

    Raises:
        ray.exceptions.RayError: workers died more often than they are started again.
    """
    address = ray_address(config.place.ray)
    prepare_environment(address)
    import ray
    from ray.util import ActorPool

    from raydd.data import features_record, shards_of
    from raydd.stages import pairs
    from raydd.tuning.cluster import cluster
    from raydd.tuning.places import settled

    store = open_store(config.place)
    data = pairs(config, store, progress)
    record = features_record(config, data.fingerprint, store)
    shards = shards_of(data)
    missing = [] if record.complete else [shard.file for shard in shards if not record.has(shard.file)]
    if not missing:
        return
    config = settled(config, cpus=1, gpus=gpus)
    with cluster(address, home(config.place)):
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=RESTARTS, max_task_retries=RESTARTS)(ShardEncoder)
        pool = ActorPool([actor.remote(config) for _ in range(min(workers, len(missing)))])
        done = len(shards) - len(missing)
        for _ in pool.map_unordered(lambda encoder, file: encoder.encode.remote(file), missing):
            done += 1
            progress("shards of features", done, len(shards))


class ShardEncoder:
    """Encodes shards of one data set; runs as a Ray actor."""

    def __init__(self, config: Config) -> None:
        """Read the data set's listing, which lies at the same path on each node."""
        from raydd.data import features_record
        from raydd.stages import pairs

        use_threads(config.place)
        store = open_store(config.place)
        self._config, self._data = config, pairs(config, store)
        self._record = features_record(config, self._data.fingerprint, store)

    def encode(self, file: str) -> None:
        """Write one shard, unless it is there."""
        from raydd.data import write_images, write_texts

        write = write_images if "/images-" in file else write_texts
        write(self._config, self._data, self._record, device_of(self._config.place), silent, only={file})
