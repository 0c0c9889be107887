"""The outer step, against torch's optimisers and against the written-out rule; of several side by side against each."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raydd.distill.outer_step import OuterStep, StepNumbers

FREE = torch.tensor(-torch.inf), torch.tensor(torch.inf)


def gradients(steps: int, *, seed: int = 0) -> Tensor:
    return torch.randn(steps, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def after(rule: OuterStep, variable: Tensor, steps: Tensor, *, momentum: float = 0.5, pull: float = 0.0) -> Tensor:
    moments = rule.initial_moments("image", variable)
    for number, gradient in enumerate(steps, start=1):
        numbers = StepNumbers.of_step(number, rate=0.1, momentum=momentum, pull=pull)
        variable, moments = rule.apply("image", variable, gradient, moments, numbers)
    return variable


def torchs(optimizer: torch.optim.Optimizer, variable: Tensor, steps: Tensor) -> Tensor:
    for gradient in steps:
        variable.grad = gradient
        optimizer.step()
    return variable.detach()


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_without_adam_it_is_torchs_sgd(momentum: float) -> None:
    start, theirs = torch.ones(5, 3).double(), torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
    mine = after(OuterStep(False, frozenset(), FREE), start, gradients(7), momentum=momentum)
    expected = torchs(torch.optim.SGD([theirs], lr=0.1, momentum=momentum), theirs, gradients(7))
    torch.testing.assert_close(mine, expected)


def test_one_moment_a_coordinate_is_torchs_adam() -> None:
    start, theirs = torch.ones(5, 3).double(), torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
    mine = after(OuterStep(True, frozenset(), FREE), start, gradients(7))
    expected = torchs(torch.optim.Adam([theirs], lr=0.1, betas=(0.5, 0.999)), theirs, gradients(7))
    torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-8)


def test_one_moment_a_block_moves_along_the_mean_gradient() -> None:
    steps, mean, square, expected = gradients(4), torch.zeros(5, 3).double(), 0.0, torch.zeros(5, 3).double()
    for number, gradient in enumerate(steps, start=1):
        mean = 0.5 * mean + 0.5 * gradient
        square = 0.999 * square + 0.001 * float((gradient**2).mean())
        expected = expected - 0.1 * (mean / (1 - 0.5**number)) / (square / (1 - 0.999**number)) ** 0.5
    mine = after(OuterStep(True, frozenset(["image"]), FREE), torch.zeros(5, 3).double(), steps)
    torch.testing.assert_close(mine, expected)


def test_the_first_step_of_a_block_has_the_learning_rate_as_its_root_mean_square() -> None:
    moved = after(OuterStep(True, frozenset(["image"]), FREE), torch.zeros(5, 3).double(), gradients(1))
    torch.testing.assert_close(moved.square().mean().sqrt(), torch.tensor(0.1).double())


def test_images_out_of_range_move_back_by_the_pull() -> None:
    limits = torch.tensor(-0.01).double(), torch.tensor(0.01).double()
    free = after(OuterStep(True, frozenset(), FREE), torch.zeros(5, 3).double(), gradients(1))
    pulled = after(OuterStep(True, frozenset(), limits), torch.zeros(5, 3).double(), gradients(1), pull=0.25)
    torch.testing.assert_close(pulled, 0.75 * free + 0.25 * free.clamp(-0.01, 0.01))


def test_learning_rates_of_students_stay_positive_without_adam() -> None:
    rule, rates = OuterStep(False, frozenset(), FREE), torch.tensor([0.1, 0.1])
    numbers = StepNumbers.of_step(1, rate=1.0, momentum=0.5, pull=0.0)
    moved, _ = rule.apply("rates", rates, torch.tensor([5.0, 0.05]), rule.initial_moments("rates", rates), numbers)
    torch.testing.assert_close(moved, torch.tensor([1e-4, 0.05]))


@given(adam=st.booleans(), block=st.booleans(), number=st.integers(1, 50))
def test_side_by_side_each_moves_as_alone(adam: bool, block: bool, number: int) -> None:
    blocks = frozenset(["image"] if block else [])
    limits = torch.tensor(-0.5).double(), torch.tensor(0.5).double()
    rule, variables, steps = OuterStep(adam, blocks, limits), gradients(2, seed=1), gradients(2, seed=2)
    of = [StepNumbers.of_step(number + k, rate=0.1 * (1 + k), momentum=0.3 + 0.4 * k, pull=0.5 * k) for k in range(2)]
    alone = [
        rule.apply("image", variable, gradient, rule.initial_moments("image", variable), one)[0]
        for variable, gradient, one in zip(variables, steps, of, strict=True)
    ]
    spread = {name: torch.tensor([vars(one)[name] for one in of]).double().view(2, 1, 1) for name in vars(of[0])}
    numbers = replace(of[0], **spread)
    together, moments = rule.apply("image", variables, steps, rule.initial_moments("image", variables), numbers)
    torch.testing.assert_close(together, torch.stack(alone))
    assert {len(moment) for moment in moments.values()} == {2}
