"""How long trials may take before any has run: operations counted, over the speed of a core. Good to a factor 2."""

import contextlib
import functools
import math
import time
from collections.abc import Iterator

import torch

from raydd.config import Config, EncodersConfig
from raydd.data import load_image_encoder
from raydd.distill.heads import head_size
from raydd.place import images_at_once
from trainables.distill import STUDENT_SEEDS

# Measured in CPU time at width 1280: floating-point operations, in units of the products that they consist of.
_STEP = 68  # of a distillation step, per T B D^2: both heads forward, backward, and backward again
_STUDENT = 9  # of a student's epoch, per pair and parameter
_FITS = 6  # students that find the part of the learned rates, half-way and at the end
_EXPERT = 9  # of an expert's epoch, per caption and parameter


def trial_seconds(config: Config, image_width: int, text_width: int) -> float:
    """Expected time of a trial on one core, its experts being there.

    Args:
        config: the trial's settings.
        image_width: of the image features.
        text_width: of the text features.
    """
    width, distill = config.experts.width or image_width, config.distill
    parameters = head_size(image_width, width) + head_size(text_width, width)
    steps = distill.steps * _STEP * distill.student_steps * distill.minibatch_size * width**2
    fits = _FITS if distill.fit_rates else 0
    students = (1 + STUDENT_SEEDS + fits) * _STUDENT * config.students.epochs * distill.pairs * parameters
    return (steps + students) / core_speed(width, distill.minibatch_size)


def expert_seconds(config: Config, image_width: int, text_width: int, captions: int) -> float:
    """Expected time of an expert on one core, up to the last epoch that these settings read.

    Args:
        config: the experts' and the distillation's settings.
        image_width: of the image features.
        text_width: of the text features.
        captions: captions of train, which an expert sees in an epoch.
    """
    width = config.experts.width or image_width
    parameters = head_size(image_width, width) + head_size(text_width, width)
    epochs = config.distill.expert_epochs[-1]
    return _EXPERT * epochs * captions * parameters / core_speed(width, config.experts.batch_size)


def pixel_seconds(config: Config) -> float:
    """Expected time of a set's images on one core, forth and back through the encoder; 0 where features are learned.

    Raises:
        ConfigError: the image encoder cannot be loaded.
    """
    distill = config.distill
    if distill.space == "features":
        return 0.0
    found = distill.space == "features-then-pixels"
    passes = config.pixels.steps if found else math.ceil(distill.steps / distill.steps_per_encoding)
    return passes * distill.pairs * image_seconds(config.encoders, images_at_once(config.place, "cpu"))


@functools.cache
def image_seconds(encoders: EncodersConfig, images: int) -> float:
    """Seconds of one core for an image's gradient at its pixels, in a batch of so many; runs a batch twice."""
    with _one_thread():
        encoder = load_image_encoder(encoders, "cpu")
        pixels = torch.zeros(images, 3, encoder.size, encoder.size, requires_grad=True)
        seconds = math.inf
        for _ in range(2):  # the first pass sets up what later ones find there
            began = time.perf_counter()
            encoder.module(pixels).sum().backward()
            seconds = min(seconds, time.perf_counter() - began)
    return seconds / images


@functools.cache
def core_speed(width: int, rows: int, repeats: int = 20) -> float:
    """Floating-point operations a second of one core, in products of the size that a distillation step consists of.

    The fastest of some products counts: the others were interrupted by whatever else the machine does.
    """
    with _one_thread():
        left, right = torch.randn(rows, width), torch.randn(width, width)
        seconds = math.inf
        for _ in range(repeats):
            began = time.perf_counter()
            torch.mm(left, right)
            seconds = min(seconds, time.perf_counter() - began)
    return 2 * rows * width**2 / seconds


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
