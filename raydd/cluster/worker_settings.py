"""Settings for Ray's workers: places are resolved, since workers may run elsewhere, and credentials are redacted."""

from raydd.cluster.gpus import cores_beside
from raydd.config import Config
from raydd.outside import CODE_SETTINGS, with_folder
from raydd.place import home, mlflow_address, open_store, study_address
from raydd.secrets_hidden import hide_password
from raydd.settings import flatten, with_settings


def settled(config: Config, *, cpus: float, gpus: float) -> Config:
    """Return the config for Ray's workers, with every place filled in and with the threads and device of one process.

    Args:
        config: as the user gave it: places may be empty, or come from the environment.
        cpus: CPU cores of a process. They are its thread limit, unless `place.threads` sets one or it has a GPU.
        gpus: GPUs of a process. If 0, `place.device` auto becomes the CPU.
    """
    place, store, settings = config.place, open_store(config.place), flatten(config)
    return with_settings(
        config,
        {
            # A worker may have another current folder.
            **{name: with_folder(settings[name], name) for name in CODE_SETTINGS},
            "place.home": str(home(place)),
            "place.store": str(store.folder) if store.folder else store.root,
            "place.mlflow": mlflow_address(place),
            "place.study": study_address(place),
            "place.threads": place.threads or (0 if gpus else max(1, int(cpus))),
            "place.device": "cpu" if place.device == "auto" and not gpus else place.device,
        },
    )


def for_workers(config: Config, gpus: float) -> Config:
    """Return the config for Ray's workers, without passwords, since workers open neither the study nor MLflow.

    Args:
        config: from `settled`; Ray is connected.
        gpus: GPUs that Ray gives each worker. If not 0, `place.device` auto or any GPU becomes cuda, the worker's own
            GPU. So if torch cannot use the GPU, the worker fails instead of computing on the CPU. The worker's threads,
            which decode and score for its GPU, are its share of the machine's cores, unless `place.threads` is set.
    """
    place = config.place
    if gpus:
        threads = place.threads or cores_beside(gpus)
        # A worker sees only its own GPUs, numbered from 0, so the driver's cuda:1 may not exist there.
        device = "cuda" if place.device == "auto" or place.device.startswith("cuda") else place.device
        config = with_settings(config, {"place.threads": threads, "place.device": device})
    return without_passwords(config)


def without_passwords(config: Config) -> Config:
    """Return the config without addresses that contain a password or a token, so that it can be kept in a file."""
    addresses = {"place.study": config.place.study, "place.mlflow": config.place.mlflow}
    return with_settings(config, {name: "" for name, value in addresses.items() if hide_password(value) != value})


def tune_folder(config: Config) -> str:
    """Return the folder for Ray Tune's files: next to the records if these are in a bucket, otherwise in the home."""
    root = config.place.store
    if "://" not in root:
        return str(home(config.place) / "ray-runs")
    address, separator, options = root.partition("?")
    return f"{address.rstrip('/')}/ray-runs{separator}{options}"
