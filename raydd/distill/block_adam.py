"""Adam with one second moment for a whole block of variables: normalised gradient steps with momentum.

Adam divides each coordinate by its own gradient's size, so that coordinates that hardly matter move as far as those
that do. Distilled image features then leave the range that an encoder can give, for nothing. With one second moment a
block, a step goes along the gradient, and the same loss is reached at a third of the squared distance
(docs/results/settings.md).

One second moment a block is Adam-mini's (Zhang et al., 2024, arXiv:2406.16793); here a block is a variable.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_EPSILON = 1e-12  # far below any gradient: a block's gradient is never all but zero


class BlockAdam(torch.optim.Optimizer):
    """Adam whose groups say, by `block`, whether their variables have one second moment or one a coordinate."""

    def __init__(self, groups: Iterable[dict[str, Any]], betas: tuple[float, float]) -> None:
        """Take groups of `params`, `lr` and `block`.

        Args:
            groups: the variables.
            betas: decay of the first and of the second moment.
        """
        super().__init__(groups, {"betas": betas, "block": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Move every variable that has a gradient."""
        del closure
        for group in self.param_groups:
            first, second = group["betas"]
            for variable in group["params"]:
                if variable.grad is None:
                    continue
                state = self.state[variable]
                if not state:
                    state |= {
                        "step": torch.tensor(0.0),
                        "mean": torch.zeros_like(variable),
                        "square": variable.new_zeros(()) if group["block"] else torch.zeros_like(variable),
                    }
                state["step"] += 1
                done, gradient = float(state["step"]), variable.grad
                moments = AdamMoments(state["mean"], state["square"]).after(
                    gradient,
                    gradient.square().mean() if group["block"] else gradient.square(),
                    first=first,
                    second=second,
                )
                state |= {"mean": moments.mean, "square": moments.square}
                variable -= group["lr"] * moments.direction(1 - first**done, 1 - second**done)


@dataclass(frozen=True)
class AdamMoments:
    """Adam's two moments of a variable; of several side by side, all numbers are tensors that spread over them."""

    mean: Tensor
    square: Tensor

    def after(
        self, gradient: Tensor, square: Tensor, *, first: float | Tensor, second: float | Tensor
    ) -> "AdamMoments":
        """The moments after a gradient, `square` being its square, or the mean of that over a block."""
        return AdamMoments(self.mean.lerp(gradient, 1 - first), self.square.lerp(square, 1 - second))

    def direction(self, of_mean: float | Tensor, of_square: float | Tensor) -> Tensor:
        """What a step of learning rate 1 subtracts; both numbers undo the moments' start at zero, 1 - decay^steps."""
        return (self.mean / of_mean) / ((self.square / of_square).sqrt() + _EPSILON)
