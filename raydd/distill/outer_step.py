"""The outer step: how the gradients of a distillation step change the learned variables.

The rule is SGD with momentum, as published, or Adam. Adam divides each coordinate by the size of its own gradient, so
coordinates that hardly matter move as far as those that do. Distilled image features would then leave the range of the
encoder's outputs without any benefit. So here Adam keeps a single second moment for all image features. Their step then
goes along the gradient, and reaches the same loss at a third of the squared distance (docs/results/settings.md). A
single second moment per block is the idea of Adam-mini (Zhang et al., 2024, arXiv:2406.16793). The other variables
(texts, pixels, factors of the similarity, learning rates) have one second moment per coordinate, as usual.

With K distillations side by side, variables, gradients and moments have a leading axis, and the numbers of a step are
tensors that broadcast over it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_SQUARE_DECAY = 0.999  # of Adam's second moments
_EPSILON = 1e-12  # far below any gradient; a coordinate whose gradients were all zero stays as it is
_SMALLEST_RATE = 1e-4  # keeps a student's learned learning rate positive when the outer rule is SGD


@dataclass(frozen=True)
class StepNumbers:
    """The numbers of a variable's next step."""

    rate: float | Tensor
    """Outer learning rate."""
    momentum: float | Tensor
    """Decay of the summed gradients (SGD) or of the first moment (Adam)."""
    mean_correction: float | Tensor
    square_correction: float | Tensor
    """Adam divides its moments by these numbers, since moments start at zero: 1 - decay^t in step t of a variable."""
    pull: float | Tensor
    """Fraction by which out-of-range image values move back to their range."""

    @classmethod
    def of_step(cls, number: int, *, rate: float, momentum: float, pull: float) -> Self:
        """Return the numbers of a variable's step, counted from 1."""
        return cls(rate, momentum, 1 - momentum**number, 1 - _SQUARE_DECAY**number, pull)


@dataclass(frozen=True)
class OuterStep:
    """The rule by which the learned variables move."""

    adam: bool
    """True: Adam; False: SGD with momentum."""
    blocks: frozenset[str]
    """Names of the variables, all matrices, for which Adam keeps a single second moment."""
    range: tuple[Tensor, Tensor]
    """Smallest and largest value of the images."""

    def initial_moments(self, name: str, variable: Tensor) -> dict[str, Tensor]:
        """Return a variable's moments before its first step, by name."""
        if not self.adam:
            return {"momentum_buffer": torch.zeros_like(variable)}
        square_like = variable[..., :1, :1] if name in self.blocks else variable
        return {"mean": torch.zeros_like(variable), "square": torch.zeros_like(square_like)}

    def apply(
        self, name: str, variable: Tensor, gradient: Tensor, moments: Mapping[str, Tensor], numbers: StepNumbers
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a variable after a step, and its moments."""
        if self.adam:
            square = gradient.square()
            if name in self.blocks:
                square = square.mean((-2, -1), keepdim=True)
            mean = moments["mean"].lerp(gradient, 1 - numbers.momentum)
            square = moments["square"].lerp(square, 1 - _SQUARE_DECAY)
            direction = (mean / numbers.mean_correction) / ((square / numbers.square_correction).sqrt() + _EPSILON)
            new_moments = {"mean": mean, "square": square}
        else:
            direction = numbers.momentum * moments["momentum_buffer"] + gradient
            new_moments = {"momentum_buffer": direction}
        value = variable - numbers.rate * direction
        if name == "rates" and not self.adam:
            value = value.clamp(min=_SMALLEST_RATE)
        if name == "image":
            value = value.lerp(value.clamp(*self.range), numbers.pull)
        return value, new_moments
