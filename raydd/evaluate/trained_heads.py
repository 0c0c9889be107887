"""Heads of students under SGD with momentum and weight decay, several side by side, in place and with no autograd.

SGD is V <- m V + g + w W, W <- W - η V: three passes over weights that no cache holds, and one more for the gradient g.
Here W = ω Ŵ and V = R/ω + s W, with numbers ω and s that the learning rates η alone decide, and the same SGD is

    R <- m R + ω g,    Ŵ <- Ŵ - η R / (ω ω'),    ω' = ω (1 - κ η),    s' = κ / (1 - κ η),    κ = m s + w:

the product that makes the gradient adds it to R, and Ŵ takes one pass.

Letters: S students, N pairs, B minibatch, d encoder width, D shared width, T steps.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.heads import Head, Taps, taps_from
from raydd.distill.products import add_products_of_students_, linear_of_students

Rows = Int[Tensor, "S B"] | None
"""The pairs of a minibatch; None is all of them, in their own order."""


@dataclass(frozen=True)
class Descent:
    """The steps of SGD, student by student: what of them is the same for all weights of one side."""

    momentum: float
    weight_decay: float
    rates: Float[Tensor, "T S"]
    """η of each step."""
    scale: Float[Tensor, "T+1 S"]
    """ω before each step, and after the last one."""
    down: Float[Tensor, "T S"]
    """-η / (ω ω') of each step."""

    @classmethod
    def of(cls, rates: Float[Tensor, "T S"], momentum: float, weight_decay: float, device: str) -> "Descent":
        """The steps of these learning rates, with ω = 1 at the start."""
        rates, s = rates.double(), torch.zeros(rates.shape[1], dtype=torch.double)
        scales = [torch.ones_like(s)]
        for rate in rates:
            kappa = momentum * s + weight_decay
            scales.append(scales[-1] * (1 - kappa * rate))
            s = kappa / (1 - kappa * rate)
        scale = torch.stack(scales)
        down = -rates / (scale[:-1] * scale[1:])
        return cls(momentum, weight_decay, *(numbers.float().to(device) for numbers in (rates, scale, down)))


class _Layer(Protocol):
    """A weight that is trained: gives its layer's output without bias, and takes the gradient there."""

    def forward(self, batch: Rows, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S B D"]: ...

    def step(
        self, batch: Rows, at_output: Float[Tensor, "S B D"], momentum: float, down: Float[Tensor, "S 1 1"]
    ) -> None: ...

    def weight(self, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S D d"]: ...


class _Dense:
    """A layer whose weight is kept as it is."""

    def __init__(self, weight: Float[Tensor, "S D d"], features: Float[Tensor, "N d"] | None = None) -> None:
        self._weight, self._sum, self._features = weight, torch.zeros_like(weight), features

    def forward(self, batch: Rows, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S B D"]:
        assert self._features is not None
        rows = self._features.expand(len(self._weight), -1, -1) if batch is None else self._features[batch]
        return self.of(rows * scale)

    def of(self, scaled: Float[Tensor, "S B d"]) -> Float[Tensor, "S B D"]:
        """The layer's output for inputs that are scaled by ω; differentiable there."""
        self._inputs = scaled.detach()  # scaled by ω, as the gradient in R is
        return linear_of_students(scaled, self._weight)

    def step(
        self, batch: Rows, at_output: Float[Tensor, "S B D"], momentum: float, down: Float[Tensor, "S 1 1"]
    ) -> None:
        add_products_of_students_(self._sum, at_output, self._inputs, keep=momentum)
        _move_(self._weight, self._sum, down)

    def weight(self, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S D d"]:
        return scale * self._weight


class _Spanned:
    """A first layer that sees few pairs: Ŵ = W_0 + Cᵀ X, since every gradient lies in the span of the rows of X.

    A step costs products with the pairs' N inner products, in place of two with the d features.
    """

    def __init__(self, start: Float[Tensor, "S D d"], features: Float[Tensor, "N d"]) -> None:
        self._start, self._features, self._inner = start, features, features @ features.T
        self._before = linear_of_students(features, start)
        self._coefficients, self._sum = torch.zeros_like(self._before), torch.zeros_like(self._before)

    def forward(self, batch: Rows, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S B D"]:
        self._scale = scale
        if batch is None:
            return scale * torch.baddbmm(self._before, self._inner.expand(len(scale), -1, -1), self._coefficients)
        before = self._before.gather(1, batch[:, :, None].expand(-1, -1, self._before.shape[2]))
        return scale * torch.baddbmm(before, self._inner[batch], self._coefficients)

    def step(
        self, batch: Rows, at_output: Float[Tensor, "S B D"], momentum: float, down: Float[Tensor, "S 1 1"]
    ) -> None:
        scaled = self._scale * at_output
        if batch is None:
            torch.add(scaled, self._sum, alpha=momentum, out=self._sum)
        else:
            self._sum.mul_(momentum).scatter_add_(1, batch[:, :, None].expand_as(scaled), scaled)
        _move_(self._coefficients, self._sum, down)

    def weight(self, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S D d"]:
        return scale * (self._start + self._coefficients.mT @ self._features)


class TrainedHead:
    """One head of each student, on its way from its start."""

    def __init__(self, start: Head, features: Float[Tensor, "N d"], descent: Descent) -> None:
        """Put the heads at their starts, which are taken over and not kept.

        Args:
            start: with a leading axis of students.
            features: what the heads see of all pairs.
            descent: the steps to take.
        """
        self._descent, self.steps = descent, 0
        pairs, width = features.shape
        weight = start.projection_weight
        self._first: _Layer = _Spanned(weight, features) if pairs <= width else _Dense(weight, features)
        self._second = _Dense(start.fc_weight)
        # Biases of both layers, weight and bias of the norm: short, so plain SGD, all in one
        self._short = torch.stack([start.projection_bias, start.fc_bias, start.norm_weight, start.norm_bias], dim=1)
        self._short_momentum = torch.zeros_like(self._short)

    def forward(self, batch: Rows, dropout: Float[Tensor, "S B D"] | None) -> Taps:
        """The minibatch through the heads; differentiable at p, and from there on."""
        scale = self._scale
        first_bias, second_bias, norm_weight, norm_bias = self._short[:, :, None].unbind(1)
        p = (self._first.forward(batch, scale) + first_bias).requires_grad_()
        self._batch = batch
        return taps_from(
            p, lambda hidden: self._second.of(hidden * scale) + second_bias, norm_weight, norm_bias, dropout
        )

    @torch.no_grad()
    def step(self, taps: Taps, gradients: tuple[Tensor, ...]) -> None:
        """Take a step, given the loss's gradients at p, h and out."""
        at_p, at_h, at_out = gradients
        descent = self._descent
        down = descent.down[self.steps][:, None, None]
        self._first.step(self._batch, at_p, descent.momentum, down)
        self._second.step(None, at_h, descent.momentum, down)
        short = torch.stack([at_p.sum(1), at_h.sum(1), (at_out * taps.normed.detach()).sum(1), at_out.sum(1)], dim=1)
        short.add_(self._short, alpha=descent.weight_decay)
        self._short_momentum.mul_(descent.momentum).add_(short)
        self._short.addcmul_(self._short_momentum, descent.rates[self.steps][:, None, None], value=-1)
        self.steps += 1

    def head(self) -> Head:
        """The heads as they are now; a copy."""
        scale = self._scale
        first_bias, second_bias, norm_weight, norm_bias = self._short.clone().unbind(1)
        return Head(
            self._first.weight(scale), first_bias, self._second.weight(scale), second_bias, norm_weight, norm_bias
        )

    @property
    def _scale(self) -> Float[Tensor, "S 1 1"]:
        return self._descent.scale[self.steps][:, None, None]


def _move_(weight: Float[Tensor, "S r c"], along: Float[Tensor, "S r c"], by: Float[Tensor, "S 1 1"]) -> None:
    weight.addcmul_(along, by)
