"""Peak memory of a piece of work in bytes: of this process on a CPU, of torch's allocator on a GPU."""

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
_RESET_PEAK = "5"  # makes Linux reset the peak of resident memory

# From glibc's malloc.h: the size from which a block is mapped by the system, and the free bytes above which memory is
# returned to the system.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_BLOCK, _FREE = 32 * 2**20, 10**9


def reset_peak(device: str) -> None:
    """Reset the peak memory. If Linux does not allow this, `peak_bytes` is the peak since the process started."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return


def peak_bytes(device: str) -> int:
    """Return the peak memory since `reset_peak`, in bytes."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        match = None
    return 1024 * (int(match[1]) if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def use_gpu_share(share: float) -> None:
    """Let this process, to which Ray gave a share of a GPU, use only that share of the GPU's memory."""
    import torch

    if 0 < share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def free_bytes(device: str) -> int:
    """Return the bytes of GPU memory that this process could still use; 0 for a CPU, whose memory the system shares."""
    if not device.startswith("cuda"):
        return 0
    import torch

    number = torch.device(device).index  # torch takes its current GPU for "cuda", but not for a process's share
    share = torch.cuda.get_per_process_memory_fraction(torch.cuda.current_device() if number is None else number)
    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    of_this_process = int(share * total) - allocated
    return max(0, min(free + reserved - allocated, of_this_process))  # torch's cache keeps freed blocks for reuse


@functools.cache
def keep_freed_blocks() -> None:
    """Let this process, and processes forked from it, reuse freed blocks instead of getting new ones from the system.

    Activations of hundreds of megabytes are allocated and freed all the time, and the system zeroes and maps each new
    page first: an encoder on a CPU is a fifth faster without that. At most one gigabyte stays free. This does nothing
    with C libraries other than glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_MMAP_THRESHOLD, _BLOCK)
    mallopt(_TRIM_THRESHOLD, _FREE)


def return_freed_blocks() -> None:
    """Return the freed memory of this process to the system, if the C library is glibc.

    glibc keeps freed blocks per thread: a process that needed 0.9 GB for a trial held 4 GB after forty trials, each of
    which ran on its own thread.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def kept_by_autograd(work: Callable[[], Result], *, excluded: "tuple[Tensor, ...]" = ()) -> "tuple[Result, int]":
    """Return the result of some work, and the bytes that autograd keeps for its gradient, `excluded` tensors aside."""
    from torch import Tensor
    from torch.autograd.graph import saved_tensors_hooks

    saved_tensors: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        # A graph that holds the result of one of its own operations would hold itself, and never be freed.
        detached = tensor.detach()
        saved_tensors.append(detached)  # keep it alive, so that no address is used twice
        return detached

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = work()
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved_tensors}
    for tensor in excluded:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    return result, sum(sizes.values())
