"""Classifies errors of trials: whether the trial is run again, and whether its process can still be used."""

import re

import torch
from ray.exceptions import OutOfMemoryError, RayActorError

from raydd.cluster.trial_report import TrialReport
from raydd.errors import PlaceError
from raydd.secrets_hidden import hidden

# Besides torch's AcceleratorError, errors of CUDA and its libraries can be plain RuntimeErrors.
_CUDA = re.compile(r"CUDA error|cuDNN error|CUDNN_STATUS_|CUBLAS_STATUS_|CUSOLVER_STATUS_|No CUDA GPUs are available")


def breaks_process(error: BaseException) -> bool:
    """Whether the process is unusable after this error: CUDA then fails every later call with the same error.

    The error may be the cause of another one: an error inside a user's loss becomes a ConfigError. Running out of
    memory does not break the process, unless CUDA itself reports it.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return False
    if isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and _CUDA.search(str(error))):
        return True
    return error.__cause__ is not None and breaks_process(error.__cause__)


def failure_of(error: Exception) -> TrialReport:
    """Return the report of a trial that failed with an error."""
    # An actor, such as Claims, is restarted if its node was lost or it was killed for memory: the trial can run again.
    again = isinstance(error, PlaceError | RayActorError | OutOfMemoryError)
    error_text = str(error).strip()
    if breaks_process(error):  # the lines after the first are advice on debugging kernels
        error_text = error_text.partition("\n")[0]
    # The text is redacted, since the study and MLflow show it.
    return TrialReport(failure=hidden(f"{type(error).__name__}: {error_text}"), again=again)
