"""The memory format in which a CPU runs a network faster, by trying both."""

import time

import torch
from torch import nn

_IMAGES = 2
_ROUNDS = 3
_GAIN = 0.9  # channels-last must take this share of the time at most, else the default stays

_measured: dict[str, torch.memory_format] = {}


@torch.no_grad()
def fastest_memory_format(name: str, module: nn.Module, size: int) -> torch.memory_format:
    """Time a few images each way; once a process for each name.

    Args:
        name: what to remember the answer by.
        module: a network on the CPU; left in the memory format that is returned.
        size: side of its square input.
    """
    formats = torch.contiguous_format, torch.channels_last
    if name not in _measured:
        pixels = torch.rand(_IMAGES, 3, size, size)
        seconds = {memory_format: float("inf") for memory_format in formats}
        for _ in range(1 + _ROUNDS):  # in turn, since a machine has its moods; the first round warms up
            for memory_format in formats:
                module.to(memory_format=memory_format)  # type: ignore[call-overload]
                module(pixels)
                seconds[memory_format] = min(seconds[memory_format], _cpu_seconds(module, pixels))
        faster = seconds[torch.channels_last] < _GAIN * seconds[torch.contiguous_format]
        _measured[name] = torch.channels_last if faster else torch.contiguous_format
    module.to(memory_format=_measured[name])  # type: ignore[call-overload]
    return _measured[name]


def _cpu_seconds(module: nn.Module, pixels: torch.Tensor) -> float:
    """Of all threads: work beside this process does not count."""
    began = time.process_time()
    module(pixels)
    return time.process_time() - began
