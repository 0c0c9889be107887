"""Adam with one second moment a block, against torch's Adam and against the written-out rule."""

import torch
from torch import Tensor

from raydd.distill.block_adam import BlockAdam


def gradients(steps: int) -> Tensor:
    return torch.randn(steps, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def after(optimizer: torch.optim.Optimizer, variable: Tensor, steps: Tensor) -> Tensor:
    for gradient in steps:
        variable.grad = gradient
        optimizer.step()
    return variable.detach()


def test_one_moment_a_coordinate_is_torchs_adam() -> None:
    ours, theirs = (torch.ones(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    group = {"params": [ours], "lr": 0.1, "block": False}
    mine = after(BlockAdam([group], betas=(0.5, 0.999)), ours, gradients(7))
    torchs = after(torch.optim.Adam([theirs], lr=0.1, betas=(0.5, 0.999)), theirs, gradients(7))
    torch.testing.assert_close(mine, torchs, rtol=1e-6, atol=1e-8)


def test_one_moment_a_block_moves_along_the_mean_gradient() -> None:
    variable = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    group = {"params": [variable], "lr": 0.1, "block": True}
    steps, mean, square, expected = gradients(4), torch.zeros(5, 3).double(), 0.0, torch.zeros(5, 3).double()
    for number, gradient in enumerate(steps, start=1):
        mean = 0.5 * mean + 0.5 * gradient
        square = 0.999 * square + 0.001 * float((gradient**2).mean())
        expected = expected - 0.1 * (mean / (1 - 0.5**number)) / (square / (1 - 0.999**number)) ** 0.5
    torch.testing.assert_close(after(BlockAdam([group], betas=(0.5, 0.999)), variable, steps), expected)


def test_the_first_step_of_a_block_has_the_learning_rate_as_its_root_mean_square() -> None:
    variable = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    moved = after(BlockAdam([{"params": [variable], "lr": 0.1, "block": True}], (0.9, 0.999)), variable, gradients(1))
    torch.testing.assert_close(moved.square().mean().sqrt(), torch.tensor(0.1).double())
