"""The students of a distillation step: plain SGD on synthetic minibatches, stored as a sum of outer products.

After k steps a weight is W_k = W_0 - η Σ_j δ_jᵀ x_j. The sum runs over the at most k·B rows x_j that the student has
seen, and δ_j are the loss gradients at the layer's output. Neither W_k nor its gradient is ever formed: the student's
steps and the matching loss only need products of thin matrices. This is exact, not an approximation. Autograd
differentiates these products instead of copies of all parameters of the heads.

K students train side by side and share nothing; a distillation alone has K = 1. The image heads come first, then the
text heads: all layers but the first have one shape.

Letters: K students with H = 2 K heads, U base rows, B pairs in a minibatch, T student steps, M rows seen so far, d and
e encoder widths, D width of the shared space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.blending import blend
from raydd.distill.heads import Taps, taps_from
from raydd.distill.legs import BothHeads
from raydd.distill.products import linear


@dataclass(frozen=True)
class StudentPlan:
    """All random choices of a student's T steps, drawn before the first step."""

    minibatches: Int[Tensor, "T B"]
    """Indices of the synthetic pairs of each step."""
    permutations: Int[Tensor, "T B"]
    """Blending partners of each step, as positions within the minibatch."""
    ratios: tuple[float, ...]
    """Blend ratio of each step."""
    image_noise: Float[Tensor, "T B d"] | None = None
    """Noise to blend with, instead of other pairs of the minibatch; None: blend with other pairs."""
    text_noise: Float[Tensor, "T B e"] | None = None
    sides: Literal["both", "image", "text"] = "both"
    """Which modalities are blended."""

    def to(self, device: str) -> "StudentPlan":
        """Return the plan with its tensors on a device."""
        tensors = (self.image_noise, self.text_noise)
        image_noise, text_noise = (None if noise is None else noise.to(device) for noise in tensors)
        return StudentPlan(
            self.minibatches.to(device), self.permutations.to(device), self.ratios, image_noise, text_noise, self.sides
        )


@dataclass(frozen=True)
class BlendedRows:
    """The inputs of the first layers of one side's heads in all T steps: minibatches, each row a blend of base rows.

    The layer is linear, so each base row is multiplied once, and the products are blended afterwards. The T·B inputs
    themselves are never formed.
    """

    base: Float[Tensor, "K U d"]
    """Features of the synthetic pairs (all, or those of the minibatches), followed by the rows of noise, if any."""
    index: Int[Tensor, "K T B"]
    """Positions of the minibatches' rows in the K bases, concatenated."""
    partner: Int[Tensor, "K T B"]
    """Positions of the blending partners, counted likewise."""
    ratios: Float[Tensor, "K T 1 1"] | None
    """Blend ratios; None: nothing is blended."""

    def blended(self, base: Float[Tensor, "K U c"]) -> Float[Tensor, "K T B c"]:
        """Return each step's blended minibatch, given one vector for each base row."""
        rows = base.flatten(0, -2)
        minibatches = rows.index_select(0, self.index.flatten()).view(*self.index.shape, -1)
        if self.ratios is None:
            return minibatches
        return blend(minibatches, rows.index_select(0, self.partner.flatten()).view_as(minibatches), self.ratios)

    def inner_products(self, *, detach_second: bool) -> Float[Tensor, "K T*B T*B"]:
        """Return X Xᵀ + 1 for the inputs X of all steps; the 1 is the input of the bias.

        With `detach_second`, no gradient flows through the second X.
        """
        second = self.base.detach() if detach_second else self.base
        rows = self.blended(self.base @ second.mT + 1).flatten(-3, -2)
        return self.blended(rows.mT).flatten(-3, -2).mT


@dataclass(frozen=True)
class BothSides:
    """The inputs of the image heads and of the text heads, in the order of `BothHeads`."""

    image: BlendedRows
    text: BlendedRows

    def times(self, heads: BothHeads) -> Float[Tensor, "H T B D"]:
        """Return the first layers' outputs on each step's minibatch."""
        sides = zip((self.image, self.text), heads.projections, strict=True)
        return torch.cat([rows.blended(linear(rows.base, *projection)) for rows, projection in sides])

    def inner_products(self, *, detach_second: bool) -> Float[Tensor, "H T*B T*B"]:
        """Return X Xᵀ + 1 for the inputs X of all steps (see `BlendedRows`)."""
        return torch.cat([rows.inner_products(detach_second=detach_second) for rows in (self.image, self.text)])


class StudentHeads:
    """The heads of K students while they train, from the experts' snapshots on.

    A step changes a weight by uᵀ x, with u = -η δ. The rows u are stored instead of the weight.
    """

    def __init__(self, start: BothHeads, rows: BothSides, rates: Float[Tensor, "H"], *, through_steps: bool) -> None:
        """Start from the experts' snapshots.

        Args:
            start: the snapshots theta_0, constant.
            rows: the inputs of the heads' first layers.
            rates: the students' learning rates η, one for each head.
            through_steps: True lets gradients flow through earlier steps (exact), False stops them (constant memory).
        """
        self._start, self._rows, self._rates, self._through_steps = start, rows, rates, through_steps
        self._first_updates: list[Tensor] = []  # u at the first layer's output, see `_append_and_merge`
        self._second_inputs: list[Tensor] = []  # gelu(p), inputs of the second layer
        self._second_updates: list[Tensor] = []  # u at the second layer's output
        self._changes: list[tuple[Tensor, Tensor]] = []  # changes of both layers' outputs, see `_squared_length`
        self._norm_weight = torch.zeros_like(start.norm_weight)  # summed updates of the LayerNorm's γ and β
        self._norm_bias = torch.zeros_like(start.norm_bias)
        self._one = start.norm_bias.new_ones(())
        projected, self._kernel = rows.times(start), rows.inner_products(detach_second=not through_steps)
        if not projected.requires_grad:  # constant features; the student's own gradients still need a graph
            projected.requires_grad_()
        steps, size = projected.shape[-3:-1]
        self._projected = iter(projected.unbind(-3))
        self._kernels = iter(self._kernel.split(size, dim=-2))
        self._inputs = steps * size

    def forward(self) -> Taps:
        """Compute the heads' outputs on the next minibatch, with their current parameters."""
        p, lengths = next(self._projected), [chunk.shape[-2] for chunk in self._first_updates]
        kernels = next(self._kernels).split([*lengths, self._inputs - sum(lengths)], dim=-1)
        change = self._output_change(p, kernels[:-1], self._first_updates)  # the last kernel belongs to later steps

        def second_layer(hidden: Tensor) -> Tensor:
            h = linear(hidden, self._start.fc_weight, self._start.fc_bias)
            kernels = [
                torch.baddbmm(self._one, hidden, self._detach_unless_exact(inputs).mT) for inputs in self._second_inputs
            ]
            second_change = self._output_change(h, kernels, self._second_updates)
            if self._through_steps:
                self._changes.append((change, second_change))
            return h + second_change

        norm_weight = self._start.norm_weight + self._detach_unless_exact(self._norm_weight)
        norm_bias = self._start.norm_bias + self._detach_unless_exact(self._norm_bias)
        return taps_from(p + change, second_layer, norm_weight.unsqueeze(-2), norm_bias.unsqueeze(-2))

    def _output_change(
        self, output: Float[Tensor, "H B D"], kernels: Sequence[Float[Tensor, "H B _"]], updates: Sequence[Tensor]
    ) -> Float[Tensor, "H B D"]:
        """Return how much the updates so far, given by their rows u (`updates`), change a layer's output."""
        change = torch.zeros_like(output)
        for kernel, rows in zip(kernels, updates, strict=True):
            change = torch.baddbmm(change, kernel, self._detach_unless_exact(rows))
        return change

    def step(self, taps: Taps, gradients: tuple[Tensor, ...]) -> None:
        """Take one SGD step, given the loss's gradients at p, h and out."""
        at_p, at_h, at_out = (-self._rates[:, None, None] * gradient for gradient in gradients)
        for chunks, rows in (
            (self._first_updates, at_p),
            (self._second_inputs, taps.hidden),
            (self._second_updates, at_h),
        ):
            _append_and_merge(chunks, rows)
        self._norm_weight = self._norm_weight + (at_out * taps.normed).sum(-2)
        self._norm_bias = self._norm_bias + at_out.sum(-2)

    def distances(self, delta: BothHeads, squared: Float[Tensor, "H"]) -> Float[Tensor, "H"]:
        """Return |theta_T - theta*|² = |Δ|² + 2 <Δ, M> + |M|², where M is the sum of all steps' updates.

        Args:
            delta: Δ = theta_0 - theta*.
            squared: |Δ|², over all parameters.
        """
        first, hidden, second = (
            torch.cat(chunks, -2) for chunks in (self._first_updates, self._second_inputs, self._second_updates)
        )
        product = (first * self._rows.times(delta).flatten(-3, -2)).sum((-2, -1))
        product = product + (second * linear(hidden, delta.fc_weight, delta.fc_bias)).sum((-2, -1))
        product = product + (self._norm_weight * delta.norm_weight + self._norm_bias * delta.norm_bias).sum(-1)
        squared_length = self._squared_length(first, hidden, second)
        squared_length = squared_length + (self._norm_weight.square() + self._norm_bias.square()).sum(-1)
        return squared + 2 * product + squared_length

    def _squared_length(
        self, first: Float[Tensor, "H M D"], hidden: Float[Tensor, "H M D"], second: Float[Tensor, "H M D"]
    ) -> Float[Tensor, "H"]:
        """Return |M|² of both layers' updates M = Σ_i u_iᵀ x_i, which is Σ_ij <u_i, u_j> <x_i, x_j>.

        A step's part of that sum is the products of its own rows with each other, plus 2 <u, M x> with the M of the
        earlier steps. M x is how much the earlier steps changed the layer's output, which `forward` has already
        computed. With the constant-memory gradient those changes carry no graph, so the full sum over i and j is taken.
        """
        if not self._through_steps:
            kernels = self._rows.inner_products(detach_second=False), hidden @ hidden.mT + 1
            products = [(rows @ rows.mT) * kernel for rows, kernel in zip((first, second), kernels, strict=True)]
            return torch.stack([product.sum((-2, -1)) for product in products]).sum(0)
        steps = len(self._changes)
        step_kernels = self._kernel.unflatten(-2, (steps, -1)).unflatten(-1, (steps, -1))
        first_kernel = step_kernels.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
        first, hidden, second = (rows.unflatten(-2, (steps, -1)) for rows in (first, hidden, second))
        first_change, second_change = (torch.stack(changes, -3) for changes in zip(*self._changes, strict=True))
        return _layer_squared_length(first, first_kernel, first_change) + _layer_squared_length(
            second, hidden @ hidden.mT + 1, second_change
        )

    def _detach_unless_exact(self, tensor: Tensor) -> Tensor:
        return tensor if self._through_steps else tensor.detach()


def _layer_squared_length(
    u: Float[Tensor, "H T B D"], kernel: Float[Tensor, "H T B B"], change: Float[Tensor, "H T B D"]
) -> Float[Tensor, "H"]:
    """Return |M|² of one layer.

    Args:
        u: rows of each step.
        kernel: inner products of the step's inputs with each other.
        change: change of the layer's output on the step's minibatch by the earlier steps.
    """
    return ((u @ u.mT) * kernel).sum((-3, -2, -1)) + 2 * (u * change).sum((-3, -2, -1))


def _append_and_merge(chunks: list[Float[Tensor, "H _ D"]], rows: Float[Tensor, "H B D"]) -> None:
    """Append a step's rows, then join chunks of equal length, as a binary counter carries.

    In T steps a row is copied log2(T) times instead of T times, and each step reads log2(T) chunks.
    """
    chunks.append(rows)
    while len(chunks) > 1 and chunks[-2].shape[-2] == chunks[-1].shape[-2]:
        last = chunks.pop()
        chunks[-1] = torch.cat([chunks[-1], last], -2)
