"""Which errors leave a process whose CUDA context is broken, so that it must end."""

import pytest
import torch

from raydd.cluster.failures import breaks_process, failure_of
from raydd.errors import ConfigError
from raydd.outside import attributed
from raydd.stages.oom_retry import out_of_memory_error

BROKEN = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nadvice")


def raised_in_own_loss(error: Exception) -> ConfigError:
    """The error of a trial in whose loss, a user's own, another error was raised."""
    with pytest.raises(ConfigError) as raised, attributed("own.py:loss", "distill.loss"):
        raise error
    return raised.value


def test_an_error_of_cuda_breaks_the_process_whoever_s_code_it_meets() -> None:
    assert breaks_process(BROKEN)
    assert breaks_process(raised_in_own_loss(BROKEN))
    assert breaks_process(raised_in_own_loss(RuntimeError("CUDA error: device-side assert triggered")))
    assert failure_of(raised_in_own_loss(BROKEN)).failure.startswith("ConfigError: distill.loss own.py:loss failed")


def test_other_errors_leave_the_process_as_it_is() -> None:
    assert not breaks_process(raised_in_own_loss(ValueError("a wrong shape")))
    assert not breaks_process(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."))
    too_large = out_of_memory_error("with 2 images at once too", "Tried to allocate 2.00 MiB", "cpu")
    too_large.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
    assert not breaks_process(too_large)
