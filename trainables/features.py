"""The feature cache of a large data set by Ray workers: each encodes shards, straight into the store.

A shard is a file of 512 images or 16,384 captions. Whoever is free takes the next one that the store lacks, and holds
no more than it in memory. A worker that dies takes the shard in its hands with it, which is given to another.
"""

from functools import lru_cache
from itertools import islice

from raydd.config import Config
from raydd.data import DataSet
from raydd.place import device_of, home, open_store, use_threads
from raydd.progress import Progress, silent
from raydd.tuning.environment import prepare_environment, ray_address

RESTARTS = 3  # of a shard whose worker died


def make_features(config: Config, *, workers: int, gpus: float = 0.0, progress: Progress = silent) -> None:
    """Write the shards that the store lacks on Ray workers; `raydd.stages.features` then has only to conclude.

    Args:
        config: all settings; `place.ray` names the cluster.
        workers: shards in work at the same time, if the cluster has room for so many.
        gpus: of each worker, fractions allowed.
        progress: told how many shards are there.

    Raises:
        ray.exceptions.RayError: a shard cannot be made; the cause is that of the worker.
    """
    address = ray_address(config.place.ray)
    prepare_environment(address)
    import ray

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
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RESTARTS)(encode_shard)
        waiting, running = iter(missing), []
        for done in range(len(shards) - len(missing), len(shards)):
            progress("shards of features", done, len(shards))
            running += [task.remote(config, file) for file in islice(waiting, workers - len(running))]
            ready, running = ray.wait(running)
            ray.get(ready)
        progress("shards of features", len(shards), len(shards))


def encode_shard(config: Config, file: str) -> None:
    """Write one shard, unless it is there; runs in a Ray worker."""
    from raydd.data import features_record, write_images, write_texts

    use_threads(config.place)
    data = _data_of(config)
    record = features_record(config, data.fingerprint, open_store(config.place))
    write = write_images if "/images-" in file else write_texts
    write(config, data, record, device_of(config.place), silent, only={file})


@lru_cache(maxsize=1)
def _data_of(config: Config) -> DataSet:
    """The data set's listing, read once a process; it lies at the same path on each node."""
    from raydd.stages import pairs

    return pairs(config, open_store(config.place))
