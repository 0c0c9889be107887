"""Distillation steps that train the whole image encoder: efficientnet-lite0, 64 pixels, minibatches of 4 pairs."""

from collections.abc import Callable

import torch
from torch import Generator

from bench.inputs import TEMPERATURE
from bench.unrolled_encoder import unrolled_loss
from raydd.config import EncodersConfig
from raydd.data.encoders import load_image_encoder
from raydd.distill.encoder_gradient import matching_gradient
from raydd.distill.encoder_passes import TrainedEncoder
from raydd.distill.encoder_student import Networks
from raydd.distill.heads import initial_head
from raydd.distill.losses import LOSSES
from raydd.distill.matching import LearnedPairs, StudentRun
from raydd.distill.similarity import Similarity
from raydd.distill.student import StudentPlan

_SIDE, _PAIRS, _MINIBATCH, _TEXT_WIDTH = 64, 24, 4, 384


def matching_step(steps: int, *, exact: bool) -> Callable[[], object]:
    """Return a function that computes raydd's gradient through the given number of student steps."""
    arguments = _gradient_arguments(steps, exact=exact)
    return lambda: matching_gradient(*arguments)


def unrolled_step(steps: int) -> Callable[[], object]:
    """Return a function that computes the unrolled gradient, which keeps the graph of every student step."""
    arguments = _gradient_arguments(steps, exact=True)
    pixels = arguments[-1].images.requires_grad_()
    return lambda: torch.autograd.grad(unrolled_loss(*arguments), pixels)


def _gradient_arguments(
    steps: int, *, exact: bool
) -> tuple[TrainedEncoder, StudentRun, Networks, Networks, LearnedPairs]:
    encoder = load_image_encoder(EncodersConfig(image_size=_SIDE), trained=True)
    trained = TrainedEncoder(encoder.module, at_once=_MINIBATCH)
    generator = Generator().manual_seed(0)
    head = initial_head(_TEXT_WIDTH, encoder.width, generator)
    start = Networks.of(trained.start, head)
    target = Networks(*({name: part + 1e-3 for name, part in side.items()} for side in start))
    plan = StudentPlan(
        torch.stack([torch.randperm(_PAIRS, generator=generator)[:_MINIBATCH] for _ in range(steps)]),
        torch.arange(_MINIBATCH).expand(steps, -1),
        (0.0,) * steps,
    )
    pairs = LearnedPairs(
        torch.rand(_PAIRS, 3, _SIDE, _SIDE, generator=generator),
        torch.randn(_PAIRS, _TEXT_WIDTH, generator=generator),
        Similarity.start("low-rank", _PAIRS, rank=5, alpha=3.0, generator=generator),
        torch.tensor([1e-3, 0.1]),
    )
    return trained, StudentRun(plan, LOSSES["wbce"], TEMPERATURE, exact), start, target, pairs
