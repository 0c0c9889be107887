"""The share of a GPU that a trial needs, from an upper estimate of its memory."""

from collections.abc import Sequence

import ray
from ray.exceptions import GetTimeoutError

from raydd.config import Config
from raydd.errors import ConfigError
from raydd.forecast import parameters_of
from raydd.settings import with_settings
from trainables.distill import STUDENT_SEEDS

CONTEXT_BYTES = 800 * 2**20  # CUDA's own, and the libraries' work space
SCORING_BYTES = 512 * 2**20  # similarities of queries and candidates, taken in chunks
SAFETY = 1.25
_FLOAT = 4
_HEAD_COPIES = 6  # start and target of both heads, their difference, its square, on the way
_STUDENT_COPIES = 3  # parameters, gradients and momentum; the optimiser is one kernel without temporaries
_WALK_TENSORS = 16  # rows that a student step keeps for the second backward pass, over two heads


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


def trial_bytes(config: Config, image_width: int, text_width: int) -> int:
    """GPU memory that a trial on features may need, in bytes; an upper estimate."""
    width = config.experts.width or image_width
    parameters = parameters_of(config, image_width, text_width)
    steps, rows = config.distill.student_steps, config.distill.minibatch_size
    seen = steps * (steps + 1) // 2 if config.distill.gradient == "exact" else steps  # a step looks at all before it
    tensors = parameters * (_HEAD_COPIES + _STUDENT_COPIES * STUDENT_SEEDS) + seen * rows * width * _WALK_TENSORS
    return int(SAFETY * (CONTEXT_BYTES + SCORING_BYTES + _FLOAT * tensors))


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
