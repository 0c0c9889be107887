"""What this process computes on: its CPU seconds, by part of the work. A sweep adds those of its trials up."""

import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Part = Literal["experts", "distillation steps", "fits of learning rates", "scores"]
REST = "the rest"  # starts of processes, features read, records written

PROCESS = secrets.token_hex(4)
"""Tells this process from all others, those of its number included that ran before."""

_counted: defaultdict[str, float] = defaultdict(float)
_inner: list[float] = []  # for each part that is open, the CPU seconds of the parts within it


@contextmanager
def counted_as(part: Part) -> Iterator[None]:
    """Count what is computed within as this part's, but for what an inner part counts.

    All threads of the process count, so one thread alone may use it.
    """
    began = time.process_time()
    _inner.append(0.0)
    try:
        yield
    finally:
        whole = time.process_time() - began
        _counted[part] += whole - _inner.pop()
        if _inner:
            _inner[-1] += whole


def cpu_seconds() -> dict[str, float]:
    """CPU seconds of this process since its start, by part; what was counted as none is `REST`."""
    return {**_counted, REST: time.process_time() - sum(_counted.values())}
