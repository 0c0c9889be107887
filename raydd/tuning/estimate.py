"""How long trials may take before any has run: operations counted, over the speed of a core. Good to a factor 2."""

import math
import time

import torch

from raydd.config import Config
from raydd.distill.heads import head_size
from trainables.distill import STUDENT_SEEDS

# Measured in CPU time at width 1280: floating-point operations, in units of the products that they consist of.
_STEP = 68  # of a distillation step, per T B D^2: both heads forward, backward, and backward again
_STUDENT = 9  # of a student's epoch, per pair and parameter
_FITS = 6  # students that find the part of the learned rates, half-way and at the end
_EXPERT = 9  # of an expert's epoch, per caption and parameter


def trials_seconds(
    config: Config, image_width: int, text_width: int, captions: int, missing: int, trials: int
) -> float:
    """Expected time of so many trials on one core each, one after the other, with the experts that are missing.

    Args:
        config: the settings of an average trial.
        image_width: of the image features.
        text_width: of the text features.
        captions: captions of train, which an expert sees in an epoch.
        missing: experts to train.
        trials: trials to run.
    """
    width, distill = config.experts.width or image_width, config.distill
    parameters = head_size(image_width, width) + head_size(text_width, width)
    steps = distill.steps * _STEP * distill.student_steps * distill.minibatch_size * width**2
    fits = _FITS if distill.fit_rates else 0
    students = (1 + STUDENT_SEEDS + fits) * _STUDENT * config.students.epochs * distill.pairs * parameters
    experts = missing * _EXPERT * distill.expert_epochs[-1] * captions * parameters
    return (trials * (steps + students) + experts) / core_speed(width, distill.minibatch_size)


def core_speed(width: int, rows: int, repeats: int = 20) -> float:
    """Floating-point operations a second of one core, in products of the size that a distillation step consists of.

    The fastest of some products counts: the others were interrupted by whatever else the machine does.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, right = torch.randn(rows, width), torch.randn(width, width)
        seconds = math.inf
        for _ in range(repeats):
            began = time.perf_counter()
            torch.mm(left, right)
            seconds = min(seconds, time.perf_counter() - began)
        return 2 * rows * width**2 / seconds
    finally:
        torch.set_num_threads(threads)
