"""The outer step: how the gradients of a distillation step move the learned variables.

By SGD with momentum, as published, or by Adam. Adam divides each coordinate by its own gradient's size, so that
coordinates that hardly matter move as far as those that do. Distilled image features then leave the range that an
encoder can give, for nothing. So Adam has one second moment for a whole block of them here: a step goes along the
gradient, and the same loss is reached at a third of the squared distance (docs/results/settings.md). One second moment
a block is Adam-mini's (Zhang et al., 2024, arXiv:2406.16793); a block is a variable.

Of K distillations side by side, variables, gradients and moments have a leading axis, and the numbers of a step are
tensors that spread over it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_SQUARE_DECAY = 0.999  # of Adam's second moments
_EPSILON = 1e-12  # far below any gradient: a block's gradient is never all but zero
_SMALLEST_RATE = 1e-4  # keeps a student's learned learning rate positive under plain SGD


@dataclass(frozen=True)
class StepNumbers:
    """The numbers of a variable's next step."""

    rate: float | Tensor
    """Outer learning rate."""
    momentum: float | Tensor
    """Decay of the gradients' sum under SGD, of the first moment under Adam."""
    of_mean: float | Tensor
    of_square: float | Tensor
    """What Adam divides its moments by to undo their start at zero: 1 - decay^t in a variable's step t."""
    pull: float | Tensor
    """Fraction by which images out of range move back to it."""

    @classmethod
    def of_step(cls, number: int, *, rate: float, momentum: float, pull: float) -> Self:
        """Those of a variable's step, counted from 1."""
        return cls(rate, momentum, 1 - momentum**number, 1 - _SQUARE_DECAY**number, pull)


@dataclass(frozen=True)
class OuterStep:
    """The rule by which variables move."""

    adam: bool
    """Adam, else SGD with momentum."""
    blocks: frozenset[str]
    """Names of the variables that Adam keeps one second moment for: matrices."""
    range: tuple[Tensor, Tensor]
    """Least and greatest value of the images."""

    def begun(self, name: str, variable: Tensor) -> dict[str, Tensor]:
        """A variable's moments before its first step, by name."""
        if not self.adam:
            return {"momentum_buffer": torch.zeros_like(variable)}
        like = variable[..., :1, :1] if name in self.blocks else variable
        return {"mean": torch.zeros_like(variable), "square": torch.zeros_like(like)}

    def moved(
        self, name: str, variable: Tensor, gradient: Tensor, moments: Mapping[str, Tensor], numbers: StepNumbers
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A variable after a step, and its moments."""
        if self.adam:
            square = gradient.square()
            if name in self.blocks:
                square = square.mean((-2, -1), keepdim=True)
            mean = moments["mean"].lerp(gradient, 1 - numbers.momentum)
            square = moments["square"].lerp(square, 1 - _SQUARE_DECAY)
            direction = (mean / numbers.of_mean) / ((square / numbers.of_square).sqrt() + _EPSILON)
            new = {"mean": mean, "square": square}
        else:
            direction = numbers.momentum * moments["momentum_buffer"] + gradient
            new = {"momentum_buffer": direction}
        value = variable - numbers.rate * direction
        if name == "rates" and not self.adam:
            value = value.clamp(min=_SMALLEST_RATE)
        if name == "image":
            value = value.lerp(value.clamp(*self.range), numbers.pull)
        return value, new
