"""Heads of students trained by SGD with momentum and weight decay: several side by side, in place, without autograd.

SGD is V <- m V + g + w W, W <- W - η V. That is three passes over weights that fit in no cache, and one more for the
gradient g. Here W = ω Ŵ and V = R/ω + s W, where the numbers ω and s depend on the learning rates η alone. The same SGD
is then

    R <- m R + ω g,    Ŵ <- Ŵ - η R / (ω ω'),    ω' = ω (1 - κ η),    s' = κ / (1 - κ η),    κ = m s + w.

The matrix product that computes the gradient adds it to R directly, so Ŵ takes only one pass.

Letters: S students, N pairs, B minibatch, d encoder width, D shared width, T steps.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.heads import NORM_EPSILON, Head
from raydd.distill.products import add_products_of_students_, linear_of_students, reduced

Rows = Int[Tensor, "S B"] | None
"""The pairs of a minibatch; None is all pairs, in their own order."""


@dataclass(frozen=True)
class Descent:
    """The numbers of all SGD steps that are the same for all weights of one side, for each student."""

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
        """Return the steps for these learning rates, with ω = 1 at the start."""
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
    """A first layer: `forward` returns its output without bias, `step` takes the gradient at that output."""

    def forward(self, batch: Rows, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S B D"]: ...

    def step(self, at_output: Float[Tensor, "S B D"], momentum: float, down: Float[Tensor, "S 1 1"]) -> None: ...

    def weight(self, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S D d"]: ...


class _Dense:
    """A layer that stores Ŵ and R themselves."""

    def __init__(self, weight: Float[Tensor, "S D d"], features: Float[Tensor, "N d"] | None = None) -> None:
        self._weight, self._momentum_sum, self._features = weight, torch.zeros_like(weight), features

    def forward(self, batch: Rows, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S B D"]:
        assert self._features is not None
        return self.output(self._features if batch is None else self._features[batch], scale)

    def output(self, inputs: Float[Tensor, "*S B d"], scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S B D"]:
        """Return the layer's output for the given inputs."""
        self._inputs = inputs * scale  # times ω: the output needs W = ω Ŵ, and in `step` R needs ω g
        self._reduced_weight = reduced(self._weight)
        return linear_of_students(self._inputs, self._reduced_weight)

    def input_gradient(
        self, at_output: Float[Tensor, "S B D"], scale: Float[Tensor, "S 1 1"]
    ) -> Float[Tensor, "S B d"]:
        """Return the gradient at the inputs."""
        return linear_of_students(at_output, self._reduced_weight.mT).mul_(scale)

    def step(self, at_output: Float[Tensor, "S B D"], momentum: float, down: Float[Tensor, "S 1 1"]) -> None:
        add_products_of_students_(self._momentum_sum, at_output, self._inputs, decay=momentum)
        self._weight.addcmul_(self._momentum_sum, down)

    def weight(self, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S D d"]:
        return scale * self._weight


class _Spanned:
    """A first layer for few pairs: Ŵ = W_0 + Cᵀ X, since every gradient lies in the span of the rows of X.

    A step takes one product with the pairs' inner products X Xᵀ, instead of two products with their d features.
    """

    def __init__(self, start: Float[Tensor, "S D d"], features: Float[Tensor, "N d"]) -> None:
        self._start, self._features = start, features
        self._inner_products = (features @ features.T).expand(len(start), -1, -1)
        self._start_output = features @ start.mT
        self._coefficients = torch.zeros_like(self._start_output)
        self._momentum_sum = torch.zeros_like(self._start_output)

    def forward(self, batch: Rows, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S B D"]:
        self._batch, self._scale, before, inner = batch, scale, self._start_output, self._inner_products
        if batch is not None:
            before = before.gather(1, batch[:, :, None].expand(-1, -1, before.shape[2]))
            inner = inner[0][batch]
        return torch.baddbmm(before, inner, self._coefficients).mul_(scale)

    def step(self, at_output: Float[Tensor, "S B D"], momentum: float, down: Float[Tensor, "S 1 1"]) -> None:
        self._momentum_sum.mul_(momentum)
        if self._batch is None:
            self._momentum_sum.addcmul_(at_output, self._scale)
        else:
            self._momentum_sum.scatter_add_(1, self._batch[:, :, None].expand_as(at_output), at_output * self._scale)
        self._coefficients.addcmul_(self._momentum_sum, down)

    def weight(self, scale: Float[Tensor, "S 1 1"]) -> Float[Tensor, "S D d"]:
        return scale * (self._start + self._coefficients.mT @ self._features)


class TrainedHead:
    """One head of each student, during training; see `raydd.distill.heads` for what a head computes."""

    def __init__(self, start: Head, features: Float[Tensor, "N d"], descent: Descent) -> None:
        """Initialise the heads from their start weights, which training may change in place.

        Args:
            start: the start weights, with a leading axis of students.
            features: the input features of all pairs.
            descent: the steps to take.
        """
        self._descent, self._steps = descent, 0
        pairs, width = features.shape
        weight = start.projection_weight
        self._first: _Layer = _Spanned(weight, features) if pairs <= width else _Dense(weight, features)
        self._second = _Dense(start.fc_weight)
        # Both layers' biases, and the norm's weight and bias: short vectors, in one tensor that takes plain SGD.
        self._vectors = torch.stack([start.projection_bias, start.fc_bias, start.norm_weight, start.norm_bias], dim=1)
        self._vector_momentum = torch.zeros_like(self._vectors)

    @torch.no_grad()
    def forward(self, batch: Rows, dropout: Float[Tensor, "S B D"] | None) -> Float[Tensor, "S B D"]:
        """Return the minibatch's embeddings on the unit sphere, without an autograd graph."""
        scale, first_bias, second_bias, norm_weight, norm_bias = self._scale, *self._vectors[:, :, None].unbind(1)
        p = self._first.forward(batch, scale).add_(first_bias)
        h = self._second.output(F.gelu(p), scale).add_(second_bias)
        residual = p + h if dropout is None else torch.addcmul(p, h, dropout)
        normed, mean, inverse_std = torch.native_layer_norm(residual, residual.shape[-1:], None, None, NORM_EPSILON)
        out = torch.addcmul(norm_bias, normed, norm_weight)
        length = out.norm(dim=-1, keepdim=True)
        embedded = out.div_(length)
        self._kept_for_step = p, dropout, (residual, mean, inverse_std), normed, length, embedded
        return embedded

    @torch.no_grad()
    def step(self, at_embedded: Float[Tensor, "S B D"]) -> None:
        """Take a step, given the gradient of the loss at the output of `forward`."""
        p, dropout, (residual, mean, inverse_std), normed, length, embedded = self._kept_for_step
        momentum, scale, norm_weight = self._descent.momentum, self._scale, self._vectors[:, 2, None]
        along = (embedded * at_embedded).sum(-1, keepdim=True)
        at_out = torch.addcmul(at_embedded, embedded, along, value=-1).div_(length)
        at_residual, _, _ = torch.ops.aten.native_layer_norm_backward(
            at_out * norm_weight, residual, residual.shape[-1:], mean, inverse_std, None, None, [True, False, False]
        )
        at_h = at_residual if dropout is None else at_residual * dropout
        at_p = at_residual + torch.ops.aten.gelu_backward(self._second.input_gradient(at_h, scale), p)
        down = self._descent.down[self._steps][:, None, None]
        self._first.step(at_p, momentum, down)
        self._second.step(at_h, momentum, down)
        vector_gradients = torch.stack([at_p.sum(1), at_h.sum(1), normed.mul_(at_out).sum(1), at_out.sum(1)], dim=1)
        self._vector_momentum.mul_(momentum).add_(
            vector_gradients.add_(self._vectors, alpha=self._descent.weight_decay)
        )
        self._vectors.addcmul_(self._vector_momentum, self._descent.rates[self._steps][:, None, None], value=-1)
        self._steps += 1

    def head(self) -> Head:
        """Return a copy of the current heads."""
        scale = self._scale
        first_bias, second_bias, norm_weight, norm_bias = self._vectors.clone().unbind(1)
        return Head(
            self._first.weight(scale), first_bias, self._second.weight(scale), second_bias, norm_weight, norm_bias
        )

    @property
    def _scale(self) -> Float[Tensor, "S 1 1"]:
        return self._descent.scale[self._steps][:, None, None]
