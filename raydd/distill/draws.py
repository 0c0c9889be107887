"""The random draws of a distillation step, all from one generator seeded by (seed, step).

So a run that resumes at step k needs no stored random state, and draws what an uninterrupted run would have drawn.
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
    """The random draws of one distillation step."""

    expert: int
    start_epoch: int
    plan: StudentPlan


def step_seed(config: DistillConfig, step: int) -> int:
    """Return the seed of all draws of a step; it depends only on the distillation's seed and the step's number."""
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
        num_experts: number of experts.
        spread: mean and standard deviation of real image and text features, to draw noise for blending;
            None if they are not available.
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
    """Return from how many experts a step draws, counted from the first expert.

    A step draws from all experts. With `all_experts_at`, the first step draws from one expert, and later steps from
    gradually more, until this percentage of the steps is done.
    """
    growing_steps = config.steps * config.all_experts_at / 100
    return num_experts if step >= growing_steps else min(num_experts, 1 + int(num_experts * step / growing_steps))


def draw_minibatches(pairs: int, size: int, steps: int, order: str, generator: Generator) -> Int[Tensor, "T B"]:
    """Draw minibatches of pairs, without repetition inside a minibatch.

    With order `permutations`, minibatches are cut from a permutation of all pairs, and a new permutation is drawn when
    fewer than B pairs remain (the published rule: the rest is dropped). With order `random`, each minibatch is drawn
    independently.
    """
    per_permutation = pairs // size if order == "permutations" else 1
    minibatches: list[Tensor] = []
    while len(minibatches) < steps:
        permutation = torch.randperm(pairs, generator=generator)
        minibatches += permutation[: per_permutation * size].split(size)
    return torch.stack(minibatches[:steps])
