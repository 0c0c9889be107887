"""Settings for processes that share neither the driver's environment nor its machine, and for the eyes of others."""

from raydd.config import Config
from raydd.outside import with_folder
from raydd.place import home, mlflow_address, open_store, study_address
from raydd.secrets_hidden import hide_password
from raydd.settings import flatten, with_settings

_NAMES = ("data.reader", "encoders.image", "encoders.text", "distill.method", "distill.loss", "experts.loss")


def settled(config: Config, *, cpus: float, gpus: float) -> Config:
    """The config with every place spelt out and one process's share of the machine, for Ray's workers.

    Args:
        config: as the user gave it: places may be empty, or come from the environment.
        cpus: CPU cores of a process; its thread limit, unless `place.threads` sets one.
        gpus: GPUs of a process; without any, `place.device` auto is the CPU.
    """
    place, store, given = config.place, open_store(config.place), flatten(config)
    return with_settings(
        config,
        {
            **{name: with_folder(given[name]) for name in _NAMES},  # a worker's folder may be another one
            "place.home": str(home(place)),
            "place.store": str(store.folder) if store.folder else store.root,
            "place.mlflow": mlflow_address(place),
            "place.study": study_address(place),
            "place.threads": place.threads or max(1, int(cpus)),
            "place.device": "cpu" if place.device == "auto" and not gpus else place.device,
        },
    )


def for_workers(config: Config, gpus: float) -> Config:
    """The config for Ray's workers, which open neither the study nor MLflow.

    Args:
        config: as `settled` gives it.
        gpus: that Ray gives each of them; with any, `place.device` auto, and any GPU of the driver's, is the worker's
            own GPU, so that one that torch cannot use fails and does not compute on the CPU.
    """
    place = config.place
    # Ray shows a worker its own GPUs alone, as the first ones: the driver's cuda:1 may not be there.
    wants_gpu = place.device == "auto" or place.device.startswith("cuda")
    on_gpu = with_settings(config, {"place.device": "cuda"}) if wants_gpu and gpus else config
    return without_passwords(on_gpu)


def without_passwords(config: Config) -> Config:
    """The config without addresses that hold a password or a token, as MLflow may be given it."""
    addresses = {"place.study": config.place.study, "place.mlflow": config.place.mlflow}
    return with_settings(config, {name: "" for name, value in addresses.items() if hide_password(value) != value})


def tune_folder(config: Config) -> str:
    """Where Ray keeps its own notes on a run: beside the records if these are in a bucket, else in the home."""
    root = config.place.store
    if "://" not in root:
        return str(home(config.place) / "ray-runs")
    address, mark, options = root.partition("?")
    return f"{address.rstrip('/')}/ray-runs{mark}{options}"
