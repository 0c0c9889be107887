"""Heads of students trained by SGD with momentum and weight decay: several side by side, in place, without autograd.

SGD is V <- m V + g + w W, W <- W - η V. That is three passes over weights that fit in no cache, and one more for the
gradient g. Here W = ω Ŵ and V = R/ω + s W, where the numbers ω and s depend on the learning rates η alone. The same SGD
is then

    R <- m R + ω g,    Ŵ <- Ŵ - η R / (ω ω'),    ω' = ω (1 - κ η),    s' = κ / (1 - κ η),    κ = m s + w.

The matrix product that computes the gradient adds it to R directly, so Ŵ takes only one pass.

ω shrinks like a weight without gradients, which under a large η w even swings through zero. A step that would bring ω
near zero therefore begins anew from the weights and their momentum, where ω = 1 and s = 0:

    R <- m R + ω g,    R <- R/ω + κ ω Ŵ,    Ŵ <- ω Ŵ,    Ŵ <- Ŵ - η R.

Which steps these are follows from the learning rates alone, so they are known before the first step.

Letters: S students, N pairs, B minibatch, d encoder width, D shared width, T steps.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.heads import NORM_EPSILON, Head
from raydd.distill.products import add_products_of_students_, linear_of_students, reduced

Rows = Int[Tensor, "S B"] | None
"""The pairs of a minibatch; None is all pairs, in their own order."""

_LEAST_RATIO = 0.5  # of ω' to ω; below it s grows, and then R/ω and s W are large and cancel each other
_LEAST_SCALE = 1e-6  # of ω, whose square must stay far inside the range of single precision


class Scales(NamedTuple):
    """What weights are before a step, as numbers for each student."""

    weight: Float[Tensor, "S 1 1"]
    """ω: the weights are ω Ŵ."""
    start: Float[Tensor, "S 1 1"]
    """What is left of the start weights; equal to ω until a step begins anew."""


@dataclass(frozen=True)
class Step:
    """An SGD step of one side: its numbers for each student."""

    momentum: float
    down: Float[Tensor, "S 1 1"]
    """-η / (ω ω'), or -η if the step begins anew."""
    anew: tuple[Float[Tensor, "S 1 1"], Float[Tensor, "S 1 1"]] | None
    """ω and κ if the step begins anew."""

    def move_(self, weight: Float[Tensor, "S _ _"], momentum_sum: Float[Tensor, "S _ _"]) -> None:
        """Move Ŵ by R, to which the gradient has been added, in place."""
        if self.anew is not None:
            scale, kappa = self.anew
            weight.mul_(scale)
            momentum_sum.div_(scale).addcmul_(weight, kappa)
        weight.addcmul_(momentum_sum, self.down)


@dataclass(frozen=True)
class Descent:
    """The numbers of all SGD steps that are the same for all weights of one side, for each student."""

    momentum: float
    weight_decay: float
    rates: Float[Tensor, "T S"]
    """η of each step."""
    down: Float[Tensor, "T S"]
    """`Step.down` of each step."""
    kappa: Float[Tensor, "T S"]
    """κ of each step."""
    scale: Float[Tensor, "T+1 S"]
    """ω before each step, and after the last one."""
    start_scale: Float[Tensor, "T+1 S"]
    """`Scales.start` before each step, and after the last one."""
    anew: frozenset[int]
    """The steps that begin anew."""

    @classmethod
    def of(cls, rates: Float[Tensor, "T S"], momentum: float, weight_decay: float, device: str) -> "Descent":
        """Return the steps for these learning rates, with ω = 1 at the start."""
        rates = rates.double()
        one, zero = torch.ones_like(rates[0]), torch.zeros_like(rates[0])
        s, start_momentum = zero, zero
        downs, kappas, scales, start_scales, anew = [], [], [one], [one], set()
        for step, rate in enumerate(rates):
            scale, kappa = scales[-1], momentum * s + weight_decay
            ratio = 1 - kappa * rate
            if bool(((ratio >= _LEAST_RATIO) & (scale * ratio >= _LEAST_SCALE)).all()):
                next_scale, s = scale * ratio, kappa / ratio
                downs.append(-rate / (scale * next_scale))
            else:
                next_scale, s = one, zero
                downs.append(-rate)
                anew.add(step)
            start_momentum = momentum * start_momentum + weight_decay * start_scales[-1]
            kappas.append(kappa)
            scales.append(next_scale)
            start_scales.append(start_scales[-1] - rate * start_momentum)
        numbers = (rates, *(torch.stack(steps) for steps in (downs, kappas, scales, start_scales)))
        return cls(momentum, weight_decay, *(steps.float().to(device) for steps in numbers), anew=frozenset(anew))

    def step(self, number: int) -> Step:
        """Return the numbers of a step."""
        down, kappa, scale = (steps[number][:, None, None] for steps in (self.down, self.kappa, self.scale))
        return Step(self.momentum, down, (scale, kappa) if number in self.anew else None)

    def scales(self, number: int) -> Scales:
        """Return what weights are before a step."""
        return Scales(self.scale[number][:, None, None], self.start_scale[number][:, None, None])


class _Layer(Protocol):
    """A first layer: `forward` returns its output without bias, `step` takes the gradient at that output."""

    def forward(self, batch: Rows, scales: Scales) -> Float[Tensor, "S B D"]: ...

    def step(self, at_output: Float[Tensor, "S B D"], step: Step) -> None: ...

    def weight(self, scales: Scales) -> Float[Tensor, "S D d"]: ...


class _Dense:
    """A layer that stores Ŵ and R themselves."""

    def __init__(self, weight: Float[Tensor, "S D d"], features: Float[Tensor, "N d"] | None = None) -> None:
        self._weight, self._momentum_sum, self._features = weight, torch.zeros_like(weight), features

    def forward(self, batch: Rows, scales: Scales) -> Float[Tensor, "S B D"]:
        assert self._features is not None
        return self.output(self._features if batch is None else self._features[batch], scales)

    def output(self, inputs: Float[Tensor, "*S B d"], scales: Scales) -> Float[Tensor, "S B D"]:
        """Return the layer's output for the given inputs."""
        self._inputs = inputs * scales.weight  # times ω: the output needs W = ω Ŵ, and in `step` R needs ω g
        self._reduced_weight = reduced(self._weight)
        return linear_of_students(self._inputs, self._reduced_weight)

    def input_gradient(self, at_output: Float[Tensor, "S B D"], scales: Scales) -> Float[Tensor, "S B d"]:
        """Return the gradient at the inputs."""
        return linear_of_students(at_output, self._reduced_weight.mT).mul_(scales.weight)

    def step(self, at_output: Float[Tensor, "S B D"], step: Step) -> None:
        add_products_of_students_(self._momentum_sum, at_output, self._inputs, decay=step.momentum)
        step.move_(self._weight, self._momentum_sum)

    def weight(self, scales: Scales) -> Float[Tensor, "S D d"]:
        return scales.weight * self._weight


class _Spanned:
    """A first layer for few pairs: W = a W_0 + ω Cᵀ X, since every gradient lies in the span of the rows of X.

    C takes the steps of Ŵ, and the number a is what is left of the start weights W_0. A step takes one product with the
    pairs' inner products X Xᵀ, instead of two products with their d features.
    """

    def __init__(self, start: Float[Tensor, "S D d"], features: Float[Tensor, "N d"]) -> None:
        self._start, self._features = start, features
        self._inner_products = (features @ features.T).expand(len(start), -1, -1)
        self._start_output = features @ start.mT
        self._coefficients = torch.zeros_like(self._start_output)
        self._momentum_sum = torch.zeros_like(self._start_output)

    def forward(self, batch: Rows, scales: Scales) -> Float[Tensor, "S B D"]:
        self._batch, self._scale, before, inner = batch, scales.weight, self._start_output, self._inner_products
        if batch is not None:
            before = before.gather(1, batch[:, :, None].expand(-1, -1, before.shape[2]))
            inner = inner[0][batch]
        return (inner @ self._coefficients).mul_(scales.weight).addcmul_(before, scales.start)

    def step(self, at_output: Float[Tensor, "S B D"], step: Step) -> None:
        self._momentum_sum.mul_(step.momentum)
        if self._batch is None:
            self._momentum_sum.addcmul_(at_output, self._scale)
        else:
            self._momentum_sum.scatter_add_(1, self._batch[:, :, None].expand_as(at_output), at_output * self._scale)
        step.move_(self._coefficients, self._momentum_sum)

    def weight(self, scales: Scales) -> Float[Tensor, "S D d"]:
        return scales.start * self._start + scales.weight * (self._coefficients.mT @ self._features)


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
        scales, first_bias, second_bias, norm_weight, norm_bias = self._scales, *self._vectors[:, :, None].unbind(1)
        p = self._first.forward(batch, scales).add_(first_bias)
        h = self._second.output(F.gelu(p), scales).add_(second_bias)
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
        descent, norm_weight = self._descent, self._vectors[:, 2, None]
        along = (embedded * at_embedded).sum(-1, keepdim=True)
        at_out = torch.addcmul(at_embedded, embedded, along, value=-1).div_(length)
        at_residual, _, _ = torch.ops.aten.native_layer_norm_backward(
            at_out * norm_weight, residual, residual.shape[-1:], mean, inverse_std, None, None, [True, False, False]
        )
        at_h = at_residual if dropout is None else at_residual * dropout
        at_p = at_residual + torch.ops.aten.gelu_backward(self._second.input_gradient(at_h, self._scales), p)
        step = descent.step(self._steps)
        self._first.step(at_p, step)
        self._second.step(at_h, step)
        vector_gradients = torch.stack([at_p.sum(1), at_h.sum(1), normed.mul_(at_out).sum(1), at_out.sum(1)], dim=1)
        self._vector_momentum.mul_(descent.momentum).add_(
            vector_gradients.add_(self._vectors, alpha=descent.weight_decay)
        )
        self._vectors.addcmul_(self._vector_momentum, descent.rates[self._steps][:, None, None], value=-1)
        self._steps += 1

    def head(self) -> Head:
        """Return a copy of the current heads."""
        scales = self._scales
        first_bias, second_bias, norm_weight, norm_bias = self._vectors.clone().unbind(1)
        return Head(
            self._first.weight(scales), first_bias, self._second.weight(scales), second_bias, norm_weight, norm_bias
        )

    @property
    def _scales(self) -> Scales:
        return self._descent.scales(self._steps)
