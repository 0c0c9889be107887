"""On CUDA out-of-memory, retry once with half the images in a batch, then fail and report the memory figures.

What a step of several distillations does then is in `trainables/slot.py`.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from raydd.errors import ConfigError
from raydd.memory import peak_bytes
from raydd.protocols import Workbench, changed

Point = TypeVar("Point")
log = logging.getLogger(__name__)


def within_memory(run: Callable[[Workbench[Any]], Iterator[Point]], work: Workbench[Any]) -> Iterator[Point]:
    """The points of a piece of work, which goes on from what it kept when it is started again.

    Args:
        run: given the workbench, gives points.
        work: `place.encode_batch` is halved if it runs out of GPU memory.

    Raises:
        ConfigError: half was too much as well; with the memory that was there and wanted.
    """
    size = work.config.place.encode_batch
    try:
        yield from run(work)
        return
    except torch.OutOfMemoryError as error:
        said = wanted(error)
    half = max(1, size // 2)
    log.warning("Out of GPU memory with %d images at once (%s). Going on with %d.", size, said, half)
    empty_cache(work.device)  # after the except block, which held the failed work's tensors
    try:
        yield from run(changed(work, {"place.encode_batch": half}))
    except torch.OutOfMemoryError as error:
        raise too_large(f"with {half} images at once too", wanted(error), work.device) from error


def too_large(how: str, said: str, device: str) -> ConfigError:
    """The error of a distillation that the GPU cannot hold: `how` it was tried, and what torch `said`."""
    return ConfigError(
        f"Out of GPU memory {how}, {peak_bytes(device) / 1e9:.1f} GB being held ({said}). Lower distill.student_steps, "
        "distill.pairs or experts.width, or give a trial more of the GPU by sweep.gpus."
    )


def wanted(error: torch.OutOfMemoryError) -> str:
    """How much was wanted and there, in torch's words."""
    return ". ".join(str(error).split(". ")[1:3]).strip() or str(error)


def empty_cache(device: str) -> None:
    """Give back to the GPU what torch holds and no tensor needs; after an error's block, which held tensors."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
