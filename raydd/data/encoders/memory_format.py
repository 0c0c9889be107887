"""Finds the memory format in which a CPU runs a network faster, by trying both."""

import time

import torch
from torch import nn

_IMAGES = 2
_ROUNDS = 3
_GAIN = 0.9  # channels-last is used if it takes at most this share of the default's time

_measured: dict[str, torch.memory_format] = {}


@torch.no_grad()
def fastest_memory_format(name: str, module: nn.Module, size: int) -> torch.memory_format:
    """Time a few images in each memory format, once per process and name, and return the faster format.

    Args:
        name: key under which the result is remembered.
        module: a network on the CPU; it is converted to the returned memory format.
        size: side of the network's square input.
    """
    formats = torch.contiguous_format, torch.channels_last
    if name not in _measured:
        pixels = torch.rand(_IMAGES, 3, size, size)
        seconds = {memory_format: float("inf") for memory_format in formats}
        for _ in range(1 + _ROUNDS):  # in turn, since a machine's speed varies; the first round warms up
            for memory_format in formats:
                module.to(memory_format=memory_format)  # type: ignore[call-overload]
                module(pixels)
                seconds[memory_format] = min(seconds[memory_format], _cpu_seconds(module, pixels))
        channels_last_is_faster = seconds[torch.channels_last] < _GAIN * seconds[torch.contiguous_format]
        _measured[name] = torch.channels_last if channels_last_is_faster else torch.contiguous_format
    module.to(memory_format=_measured[name])  # type: ignore[call-overload]
    return _measured[name]


def _cpu_seconds(module: nn.Module, pixels: torch.Tensor) -> float:
    """Return the CPU time of all threads of this process: other processes do not count."""
    start = time.process_time()
    module(pixels)
    return time.process_time() - start
