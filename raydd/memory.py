"""Peak memory of a piece of work: of this process on a CPU, of torch's allocator on a GPU. In bytes."""

import contextlib
import ctypes
import functools
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"  # what Linux takes as: forget the peak of resident memory

# Of glibc's malloc.h: from what size on a block is asked of the system, and how much may lie free before it goes back.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_BLOCK, _FREE = 32 * 2**20, 10**9


def reset_peak(device: str) -> None:
    """Begin to watch anew. Where Linux does not allow that, `peak_bytes` is the whole process's peak."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return


def peak_bytes(device: str) -> int:
    """Most memory held since `reset_peak`."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        found = None
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def free_bytes(device: str) -> int:
    """Memory of a GPU that this process could still take; 0 of a CPU, whose memory is the system's to share out."""
    if not device.startswith("cuda"):
        return 0
    import torch

    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, to be used again
    return torch.cuda.mem_get_info(device)[0] + kept


@functools.cache
def keep_freed_blocks() -> None:
    """Let this process, and those forked from it, use freed blocks again in place of asking the system for new ones.

    Activations come and go by the hundred megabytes, and each new page of them is zeroed and mapped first: an encoder
    on a CPU is a fifth faster without that. At most a gigabyte lies free. Other C libraries than glibc stay as they
    are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_MMAP_THRESHOLD, _BLOCK)
    mallopt(_TRIM_THRESHOLD, _FREE)


def return_freed_blocks() -> None:
    """Give what this process has freed back to the system, where the C library is glibc.

    It keeps freed blocks for each thread by itself: a process that took 0.9 GB for a trial held 4 GB after forty, each
    of which ran on a thread of its own.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def kept_by_autograd(work: Callable[[], Result], *, but: "tuple[Tensor, ...]" = ()) -> "tuple[Result, int]":
    """The result of some work, and the bytes of what autograd keeps for its gradient, `but` for tensors named."""
    from torch import Tensor
    from torch.autograd.graph import saved_tensors_hooks

    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)  # held on to, so that no address is used twice
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = work()
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    for tensor in but:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    return result, sum(sizes.values())
