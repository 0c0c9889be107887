"""The gradient of students that train heads against the unrolled one and finite differences, in float64."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.unrolled_encoder import unrolled_loss
from raydd.distill.encoder_passes import TrainedEncoder
from raydd.distill.encoder_student import Networks
from raydd.distill.heads import Head, initial_heads, project
from raydd.distill.heads_gradient import heads_gradient
from raydd.distill.legs import Leg
from raydd.distill.losses import find_loss
from raydd.distill.matching import LearnedPairs, StudentRun
from raydd.distill.similarity import Similarity
from raydd.distill.student import StudentPlan

SIGLIP = f"{Path(__file__).parents[2] / 'docs/examples/own_loss.py'}:LOSS"
N, D, E, WIDTH, B, STEPS = 7, 5, 4, 6, 4, 3


class HeadModule(nn.Module):
    """An image head in the place of an image encoder, so that the unrolled student trains two heads."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        for name, part in head._asdict().items():
            self.register_parameter(name, nn.Parameter(part))

    def forward(self, rows: Tensor) -> Tensor:
        return project(Head(**dict(self.named_parameters())), rows)


def draw(seed: int) -> tuple[Head, Head]:
    image, text = (Head(*(part.double() for part in head)) for head in initial_heads(D, E, WIDTH, seed))
    return image, text


def drawn_pairs() -> LearnedPairs:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factors = {"diagonal": 1 + 0.1 * normal(N), "left": normal(N, 2), "right": 0.1 * normal(N, 2)}
    bias = torch.tensor(-1.0, dtype=torch.float64)
    rates = torch.tensor([0.1, 0.2], dtype=torch.float64)
    return LearnedPairs(normal(N, D), normal(N, E), Similarity("low-rank", N, factors, 3.0), rates, {"bias": bias})


def drawn_run(exact: bool) -> StudentRun:
    generator = torch.Generator().manual_seed(1)
    minibatches = torch.stack([torch.randperm(N, generator=generator)[:B] for _ in range(STEPS)])
    # Not blended: heads blend before the image head, the unrolled student after it.
    plan = StudentPlan(minibatches, torch.arange(B).expand(STEPS, -1), (0.0,) * STEPS)
    return StudentRun(plan, find_loss(SIGLIP), 0.5, exact)


def unrolled(run: StudentRun, pairs: LearnedPairs, stops: list[Networks] | None = None) -> Tensor:
    encoder = TrainedEncoder(HeadModule(draw(3)[0]), at_once=B)
    start, target = (Networks(image._asdict(), text._asdict()) for image, text in (draw(3), draw(4)))
    return unrolled_loss(encoder, run, start, target, pairs, stops)


def leaves(pairs: LearnedPairs) -> LearnedPairs:
    tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor in pairs.tensors.items()}
    return LearnedPairs.of(tensors, pairs.similarity)


@pytest.mark.parametrize("exact", [True, False])
def test_the_gradient_is_the_unrolled_one(exact: bool) -> None:
    run, pairs = drawn_run(exact), leaves(drawn_pairs())
    found = heads_gradient(run, Leg.between(draw(3), draw(4)), pairs)
    loss = unrolled(run, pairs, None if exact else [])
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    wanted = torch.autograd.grad(loss, list(pairs.tensors.values()))
    for (name, gradient), theirs in zip(found.gradients.items(), wanted, strict=True):
        torch.testing.assert_close(
            gradient, theirs, rtol=1e-8, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("exact", [True, False])
def test_the_gradient_at_the_loss_s_parameter_equals_finite_differences(exact: bool) -> None:
    run, pairs, step = drawn_run(exact), drawn_pairs(), 1e-5
    slope = float(heads_gradient(run, Leg.between(draw(3), draw(4)), leaves(pairs)).gradients["loss.bias"])
    stops: list[Networks] = []
    unrolled(run, pairs, stops)

    def loss(sign: int) -> float:
        moved = replace(pairs, loss={"bias": pairs.loss["bias"] + sign * step})
        return float(unrolled(run, moved, None if exact else stops).detach())

    assert abs(slope) > 1e-4
    assert slope == pytest.approx((loss(1) - loss(-1)) / (2 * step), rel=1e-6)


def test_only_tensors_that_ask_for_it_get_a_gradient() -> None:
    pairs = drawn_pairs()
    pairs.texts.requires_grad_()
    assert list(heads_gradient(drawn_run(True), Leg.between(draw(3), draw(4)), pairs).gradients) == ["text"]
