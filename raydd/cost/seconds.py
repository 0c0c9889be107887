"""Expected seconds of trials, experts and pixels: operations counted, over the measured speed of a core.

Good to a factor of 2.
"""

import functools
import math
import timeit
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Self

import torch

from raydd.config import Config, EncodersConfig, SweepConfig
from raydd.cost.bytes import parameters_of
from raydd.data import load_image_encoder
from raydd.evaluate.students import LAST_RUNG_EPOCHS, RUNG_EPOCHS, TRIAL_SEEDS
from raydd.place import images_at_once, one_thread

# Measured in CPU time at width 1280: floating-point operations, in units of the products that they consist of.
_STEP = 68  # of a distillation step, per T B D^2: both heads forward, backward, and backward again
_SEEN, _LEARNED, _TWICE = 2, 6, 18  # per row and parameter: forward; and backward; and backward again
_STUDENT = 9  # of a student's epoch, per pair and parameter
_FITS = 4  # students that find the multiple of the learned rates: three, and mostly one more
_EXPERT = 9  # of an expert's epoch, per caption and parameter


@dataclass(frozen=True)
class TrialSeconds:
    """Seconds of a trial, its experts being there."""

    steps: float
    """Of all its distillation steps."""
    rung: float
    """Of the students that score it at a rung."""
    last_rung: float
    """Of those that score it at the last one."""
    end: float
    """Of those that fit its learning rates and score it at its end."""

    def at_rungs(self, passed: int, sweep: SweepConfig) -> float:
        """Of all students that score it at the first rungs."""
        last = passed == len(sweep.rungs) > 0
        return (passed - last) * self.rung + last * self.last_rung

    def __truediv__(self, speed_up: float) -> Self:
        """The same on a device that computes so much faster."""
        return type(self)(*(part / speed_up for part in astuple(self)))


def trial_seconds(config: Config, image_width: int, text_width: int) -> float:
    """Expected time of a whole trial on one core, its experts being there.

    Args:
        config: the trial's settings.
        image_width: of the image features.
        text_width: of the text features.
    """
    parts = seconds_of_trial(config, image_width, text_width)
    return parts.steps + parts.at_rungs(len(config.sweep.rungs), config.sweep) + parts.end


def seconds_of_trial(config: Config, image_width: int, text_width: int) -> TrialSeconds:
    """Expected time of a trial on one core, part by part; arguments as of `trial_seconds`."""
    width, distill, sweep = config.experts.width or image_width, config.distill, config.sweep
    speed = core_speed(width, distill.minibatch_size)
    epoch = _epoch_seconds(config, image_width, text_width)
    fits = _FITS if distill.fit_rates else 0
    fitted = sweep.fitted_students(sweep.rungs[-1]) if sweep.rungs else 0
    last = (fitted - bool(fits) + fits) * LAST_RUNG_EPOCHS if fitted else sweep.rung_students * RUNG_EPOCHS
    return TrialSeconds(
        steps=distill.steps * _step_operations(config, image_width, text_width) / speed,
        rung=sweep.rung_students * RUNG_EPOCHS * epoch,
        last_rung=last * epoch,
        end=(TRIAL_SEEDS - bool(fits) + fits) * config.students.epochs * epoch,
    )


def check_seconds(config: Config, image_width: int, text_width: int) -> float:
    """Expected time on one core of a check of a curve: its students. Arguments as of `trial_seconds`."""
    students = _FITS if config.distill.fit_rates else 1
    return students * config.students.epochs * _epoch_seconds(config, image_width, text_width)


def _epoch_seconds(config: Config, image_width: int, text_width: int) -> float:
    """Time of a student's epoch."""
    speed = core_speed(config.experts.width or image_width, config.distill.minibatch_size)
    return _STUDENT * config.distill.pairs * parameters_of(config, image_width, text_width) / speed


def _step_operations(config: Config, image_width: int, text_width: int) -> float:
    """Operations of a distillation step, by what it lowers."""
    distill, width = config.distill, config.experts.width or image_width
    real, pairs = distill.real_minibatch, distill.pairs
    parameters = parameters_of(config, image_width, text_width)
    return {
        "trajectory": _STEP * distill.student_steps * distill.minibatch_size * width**2,
        "covariance": _LEARNED * pairs * image_width * text_width,
        "projector": _LEARNED * 2 * pairs * (image_width * text_width + pairs * (image_width + text_width)),
        "ridge": _LEARNED * (real + pairs) * pairs * (image_width + text_width),
        "distribution": (_SEEN * real + _LEARNED * pairs) * parameters,
        "gradient": (_LEARNED * real + _TWICE * pairs) * parameters,
    }[distill.objective]


def expert_seconds(config: Config, image_width: int, text_width: int, captions: int) -> float:
    """Expected time of an expert on one core, up to the last epoch that these settings read.

    Args:
        config: the experts' and the distillation's settings.
        image_width: of the image features.
        text_width: of the text features.
        captions: captions of train, which an expert sees in an epoch.
    """
    width = config.experts.width or image_width
    operations = _EXPERT * config.distill.expert_epochs[-1] * captions * parameters_of(config, image_width, text_width)
    return operations / core_speed(width, config.experts.batch_size)


def pixel_seconds(config: Config) -> float:
    """Expected time of a set's images on one core, forth and back through the encoder; 0 where features are learned.

    Raises:
        ConfigError: the image encoder cannot be loaded.
    """
    distill = config.distill
    if distill.images == "features":
        return 0.0
    found = distill.images == "features-then-pixels"
    passes = config.pixels.steps if found else math.ceil(distill.steps / distill.steps_per_encoding)
    return passes * distill.pairs * image_seconds(config.encoders, images_at_once(config.place, "cpu"))


@functools.cache
def image_seconds(encoders: EncodersConfig, images: int) -> float:
    """Seconds of one core for an image's gradient at its pixels, in a batch of so many; runs a batch twice."""
    encoder = load_image_encoder(encoders, "cpu")
    pixels = torch.zeros(images, 3, encoder.size, encoder.size, requires_grad=True)
    # The first pass sets up what later ones find there.
    return _fastest(lambda: encoder.fast(pixels).sum().backward(), 2) / images


@functools.cache
def core_speed(width: int, rows: int, repeats: int = 20) -> float:
    """Floating-point operations a second of one core, in products of the size that a distillation step consists of."""
    left, right = torch.randn(rows, width), torch.randn(width, width)
    return 2 * rows * width**2 / _fastest(lambda: torch.mm(left, right), repeats)


def _fastest(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some runs on one core; what else the machine does interrupts the others."""
    with one_thread():
        return min(timeit.repeat(work, number=1, repeat=repeats))
