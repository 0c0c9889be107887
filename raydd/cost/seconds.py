"""Estimates the seconds of trials, experts and pixels: counted operations, divided by the measured speed of a core.

The estimates are accurate to a factor of 2.
"""

import functools
import math
import timeit
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Self

import torch

from raydd.config import Config, EncodersConfig, SweepConfig
from raydd.config.sweep import LAST_RUNG_EPOCHS, RUNG_EPOCHS, TRIAL_SEEDS
from raydd.cost.bytes import parameters_of
from raydd.data import load_image_encoder
from raydd.device import images_at_once, one_thread
from raydd.evaluate.students import FIRST_FACTORS

# Measured in CPU time at width 1280: floating-point operations, in units of the products that they consist of.
# Letters: T student steps, B pairs of a minibatch, D width.
_STEP = 68  # of a distillation step, per T B D^2: both heads forward, backward, and backward again
# Per row and parameter: forward; forward and backward; with a second backward.
_FORWARD, _BACKWARD, _DOUBLE_BACKWARD = 2, 6, 18
_STUDENT = 9  # of a student's epoch, per pair and parameter
_FITS = len(FIRST_FACTORS) + 1  # students that fit the factor of the learned learning rates, mostly
_EXPERT = 9  # of an expert's epoch, per caption and parameter


@dataclass(frozen=True)
class TrialSeconds:
    """Seconds of a trial whose experts are already in the store."""

    steps: float
    """Seconds of all distillation steps."""
    rung: float
    """Seconds of the students that score the trial at a rung other than the last."""
    last_rung: float
    """Seconds of the students that score the trial at the last rung."""
    end: float
    """Seconds of the students that fit the learning rates and score the trial at its end."""

    def at_rungs(self, passed: int, sweep: SweepConfig) -> float:
        """Return the seconds of all students at the first `passed` rungs."""
        includes_last = passed == len(sweep.rungs) > 0
        return (passed - includes_last) * self.rung + includes_last * self.last_rung

    def __truediv__(self, speed_up: float) -> Self:
        """Return the seconds on a device that is faster by this factor."""
        return type(self)(*(part / speed_up for part in astuple(self)))


def trial_seconds(config: Config, image_width: int, text_width: int) -> float:
    """Return the expected seconds of a whole trial on one core, whose experts are already in the store.

    Args:
        config: the trial's settings.
        image_width: width of the image features.
        text_width: width of the text features.
    """
    parts = seconds_of_trial(config, image_width, text_width)
    return parts.steps + parts.at_rungs(len(config.sweep.rungs), config.sweep) + parts.end


def seconds_of_trial(config: Config, image_width: int, text_width: int) -> TrialSeconds:
    """Return the expected seconds of each part of a trial on one core. Arguments are those of `trial_seconds`."""
    width, distill, sweep = config.experts.width or image_width, config.distill, config.sweep
    speed = core_speed(width, distill.minibatch_size)
    epoch_seconds = _epoch_seconds(config, image_width, text_width)
    fit_students = _FITS if distill.fit_rates else 0
    fitted_students = sweep.fitted_students(sweep.rungs[-1]) if sweep.rungs else 0
    last_rung_epochs = (
        (fitted_students - bool(fit_students) + fit_students) * LAST_RUNG_EPOCHS
        if fitted_students
        else sweep.rung_students * RUNG_EPOCHS
    )
    return TrialSeconds(
        steps=distill.steps * _step_operations(config, image_width, text_width) / speed,
        rung=sweep.rung_students * RUNG_EPOCHS * epoch_seconds,
        last_rung=last_rung_epochs * epoch_seconds,
        end=(TRIAL_SEEDS - bool(fit_students) + fit_students) * config.students.epochs * epoch_seconds,
    )


def check_seconds(config: Config, image_width: int, text_width: int) -> float:
    """Return the expected seconds on one core of the students of a curve's check. Arguments: see `trial_seconds`."""
    students = _FITS if config.distill.fit_rates else 1
    return students * config.students.epochs * _epoch_seconds(config, image_width, text_width)


def _epoch_seconds(config: Config, image_width: int, text_width: int) -> float:
    """Return the seconds of a student's epoch."""
    speed = core_speed(config.experts.width or image_width, config.distill.minibatch_size)
    return _STUDENT * config.distill.pairs * parameters_of(config, image_width, text_width) / speed


def _step_operations(config: Config, image_width: int, text_width: int) -> float:
    """Return the operations of a distillation step, which depend on the distillation's objective."""
    distill, width = config.distill, config.experts.width or image_width
    real_pairs, pairs = distill.real_minibatch, distill.pairs
    parameters = parameters_of(config, image_width, text_width)
    return {
        "trajectory": _STEP * distill.student_steps * distill.minibatch_size * width**2,
        "covariance": _BACKWARD * pairs * image_width * text_width,
        "projector": _BACKWARD * 2 * pairs * (image_width * text_width + pairs * (image_width + text_width)),
        "ridge": _BACKWARD * (real_pairs + pairs) * pairs * (image_width + text_width),
        "distribution": (_FORWARD * real_pairs + _BACKWARD * pairs) * parameters,
        "gradient": (_BACKWARD * real_pairs + _DOUBLE_BACKWARD * pairs) * parameters,
    }[distill.objective]


def expert_seconds(config: Config, image_width: int, text_width: int, captions: int) -> float:
    """Return the expected seconds of an expert on one core, up to the last epoch that these settings need.

    Args:
        config: the experts' and the distillation's settings.
        image_width: width of the image features.
        text_width: width of the text features.
        captions: number of captions of train, which an expert sees in an epoch.
    """
    width = config.experts.width or image_width
    operations = _EXPERT * config.distill.expert_epochs[-1] * captions * parameters_of(config, image_width, text_width)
    return operations / core_speed(width, config.experts.batch_size)


def pixel_seconds(config: Config) -> float:
    """Return the expected seconds of a set's images on one core, forward and backward in the encoder; 0 for features.

    Raises:
        ConfigError: the image encoder cannot be loaded.
    """
    distill = config.distill
    if distill.images == "features":
        return 0.0
    if distill.images == "features-then-pixels":
        passes = config.pixels.steps
    elif distill.image_lr == 0 and distill.least_crop == 1:
        passes = 1  # the images stay as they are
    else:
        passes = math.ceil(distill.steps / distill.steps_per_encoding)
    return passes * distill.pairs * image_seconds(config.encoders, images_at_once(config.place, "cpu"))


@functools.cache
def image_seconds(encoders: EncodersConfig, images: int) -> float:
    """Return the seconds on one core of the gradient at an image's pixels, in a batch of `images`; runs it twice."""
    encoder = load_image_encoder(encoders, "cpu")
    pixels = torch.zeros(images, 3, encoder.size, encoder.size, requires_grad=True)
    # The first pass also sets things up for later ones.
    return _shortest_seconds(lambda: encoder.fast(pixels).sum().backward(), 2) / images


@functools.cache
def core_speed(width: int, rows: int, repeats: int = 20) -> float:
    """Return the floating-point operations per second of one core, in products as large as a distillation step's."""
    left, right = torch.randn(rows, width), torch.randn(width, width)
    return 2 * rows * width**2 / _shortest_seconds(lambda: torch.mm(left, right), repeats)


def _shortest_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the fastest of several runs on one core; other work on the machine slows the others."""
    with one_thread():
        return min(timeit.repeat(work, number=1, repeat=repeats))
