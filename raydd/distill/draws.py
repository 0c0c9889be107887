"""The random draws of a distillation step, all from one generator seeded by (seed, step).

So a run that goes on from step k needs no stored random state, and draws what an undisturbed run would have drawn.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from raydd.config import DistillConfig
from raydd.distill.blending import draw_below, draw_ratio
from raydd.distill.student import StudentPlan


@dataclass(frozen=True)
class StepDraws:
    """What one distillation step draws."""

    expert: int
    start_epoch: int
    plan: StudentPlan


def step_seed(config: DistillConfig, step: int) -> int:
    """The seed of all that a step draws: it follows from the distillation's and the step's number alone."""
    return config.seed * 1_000_003 + step


def draw_step(
    config: DistillConfig,
    step: int,
    num_experts: int,
    spread: tuple[Float[Tensor, "2 d"], Float[Tensor, "2 e"]] | None,
) -> StepDraws:
    """Draw a step's expert, start epoch, minibatches, partners and blend ratios.

    Args:
        config: the distillation's settings.
        step: number of the distillation step, from 0.
        num_experts: experts that there are.
        spread: mean and standard deviation of real image and text features, for partners that are noise;
            None where there are none.
    """
    generator = Generator().manual_seed(step_seed(config, step))
    expert = draw_below(experts_at(config, step, num_experts), generator)
    start_epoch = draw_below(config.max_start_epoch, generator)
    steps, size = config.student_steps, config.minibatch_size
    minibatches = draw_minibatches(config.pairs, size, steps, config.minibatch_order, generator)
    permutations = torch.stack([torch.randperm(size, generator=generator) for _ in range(steps)])
    ratios = tuple(
        draw_ratio(config.blend, beta=config.blend_beta, fixed=config.blend_ratio, generator=generator)
        for _ in range(steps)
    )
    noise = [None, None]
    if config.blend == "noise" and spread is not None:
        noise = [
            mean + std * torch.randn(steps, size, len(mean), generator=generator)
            for mean, std in (spread[0], spread[1])
        ]
    plan = StudentPlan(minibatches, permutations, ratios, noise[0], noise[1], config.blend_sides)
    return StepDraws(expert, start_epoch, plan)


def experts_at(config: DistillConfig, step: int, num_experts: int) -> int:
    """From how many experts a step draws, the first ones: all, or under `all_experts_at` one at first and then more."""
    growing = config.steps * config.all_experts_at / 100
    return num_experts if step >= growing else min(num_experts, 1 + int(num_experts * step / growing))


def draw_minibatches(pairs: int, size: int, steps: int, order: str, generator: Generator) -> Int[Tensor, "T B"]:
    """Minibatches of pairs without repetition inside one.

    Under `permutations` they are cut from a permutation of all pairs, and a new one is drawn when fewer than B remain
    (the published rule: the tail is dropped); under `random` each is drawn by itself.
    """
    per_permutation = pairs // size if order == "permutations" else 1
    drawn: list[Tensor] = []
    while len(drawn) < steps:
        permutation = torch.randperm(pairs, generator=generator)
        drawn += permutation[: per_permutation * size].split(size)
    return torch.stack(drawn[:steps])
