"""Adam with one second moment for a whole block of variables: normalised gradient steps with momentum.

Adam divides each coordinate by its own gradient's size, so that coordinates that hardly matter move as far as those
that do. Distilled image features then leave the range that an encoder can give, for nothing. With one second moment a
block, a step goes along the gradient, and the same loss is reached at a third of the squared distance
(docs/results/settings.md).

One second moment a block is Adam-mini's (Zhang et al., 2024, arXiv:2406.16793); here a block is a variable.
"""

from collections.abc import Callable, Iterable
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
                square: Tensor = gradient.square().mean() if group["block"] else gradient.square()
                state["mean"].lerp_(gradient, 1 - first)
                state["square"].lerp_(square, 1 - second)
                size = (state["square"] / (1 - second**done)).sqrt() + _EPSILON
                variable -= group["lr"] * (state["mean"] / (1 - first**done)) / size
