"""A student's walk on a tiny convolutional encoder, with all that its gradient needs, in float64 unless told."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.unrolled_encoder import unrolled_loss
from raydd.distill.encoder_gradient import matching_gradient
from raydd.distill.encoder_passes import Precision, TrainedEncoder
from raydd.distill.encoder_student import Networks
from raydd.distill.heads import initial_head
from raydd.distill.losses import find_loss
from raydd.distill.matching import LearnedPairs, StepLoss, StudentRun
from raydd.distill.similarity import Similarity
from raydd.distill.student import StudentPlan

N, E, D, SIDE, B = 6, 5, 7, 8, 4


@dataclass(frozen=True)
class Problem:
    """A walk, its start and target, and the pairs it walks on."""

    encoder: TrainedEncoder
    run: StudentRun
    start: Networks
    target: Networks
    pairs: LearnedPairs

    def unrolled(self, pairs: LearnedPairs | None = None, stops: list[Networks] | None = None) -> Tensor:
        """The matching loss with its graph through all student steps."""
        return unrolled_loss(self.encoder, self.run, self.start, self.target, pairs or self.pairs, stops)

    def matching(self) -> StepLoss:
        """raydd's matching loss and gradient."""
        return matching_gradient(self.encoder, self.run, self.start, self.target, self.pairs)

    def single(self) -> "Problem":
        """The same in float32."""
        encoder = replace(self.encoder, module=copy.deepcopy(self.encoder.module).float())
        tensors = {name: tensor.float() for name, tensor in self.pairs.tensors.items()}
        pairs = LearnedPairs.of(tensors, self.pairs.similarity)
        return Problem(encoder, self.run, single(self.start), single(self.target), pairs)

    def at_precision(self, precision: Precision) -> "Problem":
        """The same with an encoder that computes in another precision."""
        return replace(self, encoder=replace(self.encoder, precision=precision))


def conv_net() -> nn.Module:
    """Two convolutions with batch norm, one of them depthwise, pooled: what efficient networks are made of."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(24),
        nn.Linear(24, D),
    )
    with torch.no_grad():
        for part in net:
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()  # type: ignore[union-attr]
                part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return net.eval().requires_grad_(False)


class AttentionNet(nn.Module):
    """Patches that attend to each other, then a convolution over them in channels-last order: a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.norm = nn.LayerNorm(8)
        self.reads = nn.Linear(8, 24)
        self.down = nn.Conv2d(8, D, 2, stride=2)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patches(pixels).permute(0, 2, 3, 1).flatten(1, 2)
        query, key, value = (part[:, None] for part in self.reads(self.norm(tokens)).chunk(3, -1))
        attended = nn.functional.scaled_dot_product_attention(query, key, value)[:, 0]
        return self.down(self.norm(tokens + attended).unflatten(1, (4, 4)).permute(0, 3, 1, 2)).mean((2, 3))


def attention_net() -> nn.Module:
    return AttentionNet().eval().requires_grad_(False)


def problem(
    *,
    net: Callable[[], nn.Module] = conv_net,
    steps: int = 3,
    loss: str = "wbce",
    kind: str = "low-rank",
    at_once: int = B,
    blended: bool = True,
    **changes: Any,
) -> Problem:
    """A problem drawn from a fixed seed; `changes` are of `StudentRun`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = net().double()
        encoder = TrainedEncoder(module, at_once)
        plan = StudentPlan(
            torch.stack([torch.randperm(N)[:B] for _ in range(steps)]),
            torch.stack([torch.randperm(B) for _ in range(steps)]),
            tuple(torch.rand(steps).tolist()) if blended else (0.0,) * steps,
        )
        generator = torch.Generator().manual_seed(1)
        start, target = (
            Networks.of(
                {name: part + size * torch.randn_like(part) for name, part in encoder.start.items()},
                initial_head(E, D, generator),
            )
            for size in (0.0, 0.1)
        )
        factors = Similarity.start(kind, N, rank=2, alpha=3.0, generator=generator)  # type: ignore[arg-type]
        if kind == "low-rank":
            factors = factors.with_factors(factors.factors | {"right": 0.1 * torch.randn(N, 2)})
        similarity = factors.with_factors({name: part.double() for name, part in factors.factors.items()})
        rates, loss_of = torch.tensor([0.05, 0.2], dtype=torch.float64), find_loss(loss)
        parameters = {name: 0.1 * value for name, value in loss_of.tensors({}, rates).items()}
        pixels, texts = torch.rand(N, 3, SIDE, SIDE).double(), torch.randn(N, E).double()
        pairs = LearnedPairs(pixels, texts, similarity, rates, parameters)
        run = replace(StudentRun(plan, loss_of, temperature=0.5, exact=True), **changes)
        return Problem(encoder, run, double(start), double(target), pairs)


def double(networks: Networks) -> Networks:
    return Networks(*({name: part.double() for name, part in side.items()} for side in networks))


def single(networks: Networks) -> Networks:
    return Networks(*({name: part.float() for name, part in side.items()} for side in networks))


def with_variable(pairs: LearnedPairs, name: str, value: Tensor) -> LearnedPairs:
    """The pairs with one of the gradient's variables replaced."""
    return LearnedPairs.of(pairs.tensors | {name: value}, pairs.similarity)
