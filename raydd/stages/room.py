"""Room on a GPU: what does not fit is tried once more with half as many images at once, then ends with its numbers."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from raydd.config import Config
from raydd.errors import ConfigError
from raydd.memory import peak_bytes
from raydd.settings import with_settings

Point = TypeVar("Point")
log = logging.getLogger(__name__)


def within_memory(work: Callable[[Config], Iterator[Point]], config: Config, device: str) -> Iterator[Point]:
    """The points of a piece of work, which goes on from what it kept when it is started again.

    Args:
        work: given the settings, gives points.
        config: `place.encode_batch` is halved if the work runs out of GPU memory.
        device: where it computes.

    Raises:
        ConfigError: half was too much as well; with the memory that was there and wanted.
    """
    size = config.place.encode_batch
    try:
        yield from work(config)
        return
    except torch.OutOfMemoryError as error:
        said = _wanted(error)
    half = max(1, size // 2)
    log.warning("Out of GPU memory with %d images at once (%s). Going on with %d.", size, said, half)
    _empty_cache(device)  # after the except block, which held the failed work's tensors
    try:
        yield from work(with_settings(config, {"place.encode_batch": half}))
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"Out of GPU memory with {half} images at once too, {peak_bytes(device) / 1e9:.1f} GB being held "
            f"({_wanted(error)}). Lower distill.student_steps, distill.pairs or experts.width, or give a trial more of "
            "the GPU by sweep.gpus."
        ) from error


def _wanted(error: torch.OutOfMemoryError) -> str:
    return ". ".join(str(error).split(". ")[1:3]).strip() or str(error)


def _empty_cache(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
