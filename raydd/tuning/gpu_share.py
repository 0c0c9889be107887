"""The share of a GPU that a trial needs, from an upper estimate of its memory."""

from collections.abc import Sequence

import ray
from ray.exceptions import GetTimeoutError

from raydd.config import Config
from raydd.cost.bytes import trial_bytes
from raydd.errors import ConfigError
from raydd.settings import with_settings


def with_gpu_share(
    config: Config, drawn: Sequence[Config], widths: tuple[int, int] | None, *, wait: float = 0.0
) -> Config:
    """The config with `sweep.gpus` -1 replaced by the share of this cluster's GPUs that its largest trial needs.

    Args:
        config: what all trials share.
        drawn: configs of trials, from the search space.
        widths: of the image and the text features; None where nothing is cached, and a trial gets a whole GPU.
        wait: seconds for a cluster that has no GPU yet to start a machine with one.

    Raises:
        ConfigError: no GPU came in time, or a trial does not fit on one.
    """
    if config.sweep.gpus >= 0:
        return config
    size = _gpu_bytes(wait)
    if widths is None:
        return with_settings(config, {"sweep.gpus": 1.0})
    need = max(trial_bytes(trial, *widths) for trial in drawn)
    if need > size:
        raise ConfigError(
            f"A trial is expected to need {need / 1e9:.1f} GB of GPU memory, and the GPU has {size / 1e9:.1f} GB. "
            "Lower distill.student_steps or experts.width, or set sweep.gpus to 1 to try it all the same."
        )
    return with_settings(config, {"sweep.gpus": 1 / (size // need)})


def _gpu_bytes(wait: float) -> int:
    """Memory of a GPU of the cluster; asking for one makes a cluster that grows start a machine."""
    none = "sweep.gpus -1 picks a share of a GPU, but Ray sees none here. Set sweep.gpus to 0."
    if not wait and not ray.cluster_resources().get("GPU"):
        raise ConfigError(none)
    asked = ray.remote(num_gpus=1)(_size_of_gpu).remote()
    try:
        return int(ray.get(asked, timeout=wait or None))
    except GetTimeoutError as error:
        ray.cancel(asked)
        raise ConfigError(f"No machine with a GPU came within {wait:.0f} s. {none}") from error


def _size_of_gpu() -> int:
    import torch

    return torch.cuda.get_device_properties(0).total_memory
