"""On CUDA out-of-memory, retry once with half the images in a batch, then fail and report the memory figures.

`trainables/slot.py` handles out-of-memory in a step of several distillations.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from raydd.distill.legs import shared_legs
from raydd.errors import ConfigError
from raydd.memory import peak_bytes
from raydd.protocols import Workbench, changed

Point = TypeVar("Point")
log = logging.getLogger(__name__)


def within_memory(
    run: Callable[[Workbench[Any]], Iterator[Point]], work: Workbench[Any], encodes: Callable[[], bool] = lambda: True
) -> Iterator[Point]:
    """Yield the points of `run`; on CUDA out-of-memory, run it once more with half of `place.encode_batch`.

    Args:
        run: yields points, given a workbench. When it is started again, it continues from the state it kept.
        work: the workbench of the first try.
        encodes: says, once memory has run out, whether images were being encoded; only then are smaller batches tried.

    Raises:
        ConfigError: half was too large as well, or no images were being encoded; reports the memory that was held and
            wanted.
    """
    size = work.config.place.encode_batch
    try:
        yield from run(work)
        return
    except torch.OutOfMemoryError as error:
        memory_text = requested_memory(error)
        if size == 1 or not encodes():
            attempt = "while features were distilled" if size > 1 else "with 1 image at once"
            raise out_of_memory_error(attempt, memory_text, work.device) from error
    half_size = max(1, size // 2)
    log.warning("Out of GPU memory with %d images at once (%s). Continuing with %d.", size, memory_text, half_size)
    empty_cache(work.device)  # after the except block, since the error holds the tensors of the failed work
    try:
        yield from run(changed(work, {"place.encode_batch": half_size}))
    except torch.OutOfMemoryError as error:
        raise out_of_memory_error(
            f"with {half_size} images at once too", requested_memory(error), work.device
        ) from error


def out_of_memory_error(attempt: str, memory_text: str, device: str) -> ConfigError:
    """Return the error of a distillation that the GPU cannot hold.

    Args:
        attempt: how it was tried.
        memory_text: what `requested_memory` returned.
        device: the device that it was tried on.
    """
    return ConfigError(
        f"Out of GPU memory {attempt}, with {peak_bytes(device) / 1e9:.1f} GB in use ({memory_text}). Lower "
        "distill.student_steps, distill.pairs or experts.width, or give a trial a larger share of the GPU (sweep.gpus)."
    )


def requested_memory(error: torch.OutOfMemoryError) -> str:
    """Return torch's words on the memory that was wanted and the memory that was free."""
    return ". ".join(str(error).split(". ")[1:3]).strip() or str(error)


def empty_cache(device: str) -> None:
    """Return unused cached memory to the GPU, and the experts' legs that distillations of this process share.

    Call it after an except block, since the error holds tensors.
    """
    if device.startswith("cuda"):
        shared_legs.cache_clear()
        torch.cuda.empty_cache()
