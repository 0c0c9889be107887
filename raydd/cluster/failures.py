"""What a trial's error means: for the trial, and for the process that it happened in."""

import re

import torch
from ray.exceptions import OutOfMemoryError, RayActorError

from raydd.cluster.trial_report import TrialReport
from raydd.errors import PlaceError
from raydd.secrets_hidden import hidden

# CUDA and its libraries raise plain RuntimeErrors beside torch's AcceleratorError.
_CUDA = re.compile(r"CUDA error|cuDNN error|CUDNN_STATUS_|CUBLAS_STATUS_|CUSOLVER_STATUS_|No CUDA GPUs are available")


def breaks_process(error: BaseException) -> bool:
    """Whether the process is of no more use: CUDA answers every later call with the error that it met once.

    Memory that did not suffice is no such error, unless CUDA itself says so.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and bool(_CUDA.search(str(error)))
    )


def failure_of(error: Exception) -> TrialReport:
    """The report on a trial that an error ended."""
    # An actor that was on a lost node or was killed for memory, Claims among them, is started again.
    again = isinstance(error, PlaceError | RayActorError | OutOfMemoryError)
    said = str(error).strip()
    if breaks_process(error):  # what follows the first line is advice on debugging kernels
        said = said.partition("\n")[0]
    return TrialReport(failure=hidden(f"{type(error).__name__}: {said}"), again=again)  # the study and MLflow show it
