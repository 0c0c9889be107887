"""The student of a distillation step: plain SGD on synthetic minibatches, stored as a sum of outer products.

After k steps a weight is W_k = W_0 - η Σ_j δ_jᵀ x_j. The sum runs over the at most k·B rows x_j that the student has
seen, and δ_j are the loss gradients at the layer's output. Neither W_k nor its gradient is ever formed: the student's
steps and the matching loss only need products of thin matrices. This is exact, not an approximation. Autograd
differentiates these products instead of copies of all parameters of the heads.

Letters: K students side by side (an optional leading axis), N synthetic pairs, of which a plan uses U, B pairs in a
minibatch, T student steps, M rows seen so far, d and e encoder widths, D width of the shared space.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.blending import blend
from raydd.distill.heads import Head, Taps, taps_from, to_sphere
from raydd.distill.products import linear, plus_product


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
    """The inputs of a head's first layer in all T steps: one side's minibatches, each row a blend of base rows.

    The layer is linear, so each base row is multiplied once, and the products are blended afterwards. The T·B inputs
    themselves are never formed.
    """

    base: Float[Tensor, "*K U d"]
    """Features of the synthetic pairs (all, or only the used ones), followed by the rows of noise, if any."""
    index: Int[Tensor, "*K T B"]
    """Positions of the minibatches' rows in `base`. With K students: positions in their K bases, concatenated."""
    partner: Int[Tensor, "*K T B"]
    """Positions of the blending partners, counted likewise."""
    ratios: Float[Tensor, "*K T 1 1"] | None
    """Blend ratios; None: nothing is blended."""

    @classmethod
    def of_plan(cls, plan: StudentPlan, side: Literal["image", "text"], features: Float[Tensor, "N d"]) -> Self:
        """Return the rows of one side of one student; the base rows are the U pairs that its plan uses.

        Args:
            plan: minibatches, partners and blend ratios.
            side: image or text: decides which noise of the plan is used, and whether this side is blended at all.
            features: features of all synthetic pairs on this side.
        """
        used, positions = plan.minibatches.unique(return_inverse=True)
        base, partner = features[used], positions.gather(1, plan.permutations)
        noise = plan.image_noise if side == "image" else plan.text_noise
        if noise is not None:
            base = torch.cat([base, noise.flatten(0, 1)])
            partner = len(used) + torch.arange(positions.numel(), device=used.device).view_as(positions)
        blended = plan.sides in ("both", side) and any(plan.ratios)
        ratios = torch.tensor(plan.ratios, dtype=base.dtype, device=used.device)
        return cls(base, positions, partner, ratios[:, None, None] if blended else None)

    def blended(self, base: Float[Tensor, "*K U c"]) -> Float[Tensor, "*K T B c"]:
        """Return each step's blended minibatch, given one vector for each base row."""
        rows = base.flatten(0, -2)
        minibatches = rows.index_select(0, self.index.flatten()).view(*self.index.shape, -1)
        if self.ratios is None:
            return minibatches
        return blend(minibatches, rows.index_select(0, self.partner.flatten()).view_as(minibatches), self.ratios)

    def times(self, head: Head) -> Float[Tensor, "*K T B D"]:
        """Return the first layer's output on each step's minibatch."""
        return self.blended(linear(self.base, head.projection_weight, head.projection_bias))

    def inner_products(self, *, detach_second: bool) -> Float[Tensor, "*K T*B T*B"]:
        """Return X Xᵀ + 1 for the inputs X of all steps; the 1 is the input of the bias.

        With `detach_second`, no gradient flows through the second X.
        """
        second = self.base.detach() if detach_second else self.base
        rows = self.blended(self.base @ second.mT + 1).flatten(-3, -2)
        return self.blended(rows.mT).flatten(-3, -2).mT


class Inputs(Protocol):
    """The inputs of the first layer of one head, or of several heads. `BlendedRows` explains the methods."""

    def times(self, head: Any, /) -> Float[Tensor, "*K T B D"]:
        """Return the first layer's output on each step's minibatch."""
        ...

    def inner_products(self, *, detach_second: bool) -> Float[Tensor, "*K T*B T*B"]:
        """Return X Xᵀ + 1 for the inputs X of all steps."""
        ...


class Displacement(NamedTuple):
    """The difference between a head's start snapshot and its target."""

    delta: Head
    """Δ = theta_0 - theta*."""
    squared: Float[Tensor, ""]
    """|Δ|², over all parameters."""

    @classmethod
    def between(cls, start: Head, target: Head) -> Self:
        """Return the difference between two snapshots."""
        delta = Head(*(start_part - target_part for start_part, target_part in zip(start, target, strict=True)))
        return cls(delta, torch.stack([part.flatten() @ part.flatten() for part in delta]).sum())


class StudentHead:
    """A student's head while it trains, from the snapshot `start` on; or several independent heads side by side.

    A step changes a weight by uᵀ x, with u = -η δ. The head stores the rows u instead of the weight.
    """

    def __init__(self, start: Any, rows: Inputs, rate: Float[Tensor, "*K"], *, through_steps: bool) -> None:
        """Start from an expert's snapshot.

        Args:
            start: the expert's snapshot theta_0, constant: a `Head`, or several heads in the form that `rows` takes.
            rows: the inputs of the head's first layer.
            rate: the student's learning rate η.
            through_steps: True lets gradients flow through earlier steps (exact), False stops them (constant memory).
        """
        self._start, self._rows, self._rate, self._through_steps = start, rows, rate, through_steps
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
        """Compute the head's output on the next minibatch, with its current parameters."""
        p, lengths = next(self._projected), [chunk.shape[-2] for chunk in self._first_updates]
        kernels = next(self._kernels).split([*lengths, self._inputs - sum(lengths)], dim=-1)
        change = self._output_change(p, kernels[:-1], self._first_updates)  # the last kernel belongs to later steps

        def second_layer(hidden: Tensor) -> Tensor:
            h = linear(hidden, self._start.fc_weight, self._start.fc_bias)
            kernels = [
                plus_product(self._one, hidden, self._detach_unless_exact(inputs).mT) for inputs in self._second_inputs
            ]
            second_change = self._output_change(h, kernels, self._second_updates)
            if self._through_steps:
                self._changes.append((change, second_change))
            return h + second_change

        norm_weight = self._start.norm_weight + self._detach_unless_exact(self._norm_weight)
        norm_bias = self._start.norm_bias + self._detach_unless_exact(self._norm_bias)
        return taps_from(p + change, second_layer, norm_weight.unsqueeze(-2), norm_bias.unsqueeze(-2))

    def _output_change(
        self, output: Float[Tensor, "*K B D"], kernels: Sequence[Float[Tensor, "*K B _"]], updates: Sequence[Tensor]
    ) -> Float[Tensor, "*K B D"]:
        """Return how much the updates so far, given by their rows u (`updates`), change a layer's output."""
        change = torch.zeros_like(output)
        for kernel, rows in zip(kernels, updates, strict=True):
            change = plus_product(change, kernel, self._detach_unless_exact(rows))
        return change

    def step(self, taps: Taps, gradients: tuple[Tensor, ...]) -> None:
        """Take one SGD step, given the loss's gradients at p, h and out."""
        at_p, at_h, at_out = (-self._rate[..., None, None] * gradient for gradient in gradients)
        for chunks, rows in (
            (self._first_updates, at_p),
            (self._second_inputs, taps.hidden),
            (self._second_updates, at_h),
        ):
            _append_and_merge(chunks, rows)
        self._norm_weight = self._norm_weight + (at_out * taps.normed).sum(-2)
        self._norm_bias = self._norm_bias + at_out.sum(-2)

    def distance(self, target: Displacement) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return |theta_T - theta*|² and |theta_0 - theta*|², over all parameters."""
        return self.distance_from(*target), target.squared

    def distance_from(self, delta: Any, squared: Float[Tensor, "*K"]) -> Float[Tensor, "*K"]:
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
        self, first: Float[Tensor, "*K M D"], hidden: Float[Tensor, "*K M D"], second: Float[Tensor, "*K M D"]
    ) -> Float[Tensor, "*K"]:
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
    u: Float[Tensor, "*K T B D"], kernel: Float[Tensor, "*K T B B"], change: Float[Tensor, "*K T B D"]
) -> Float[Tensor, "*K"]:
    """Return |M|² of one layer.

    Args:
        u: rows of each step.
        kernel: inner products of the step's inputs with each other.
        change: change of the layer's output on the step's minibatch by the earlier steps.
    """
    return ((u @ u.mT) * kernel).sum((-3, -2, -1)) + 2 * (u * change).sum((-3, -2, -1))


def _append_and_merge(chunks: list[Float[Tensor, "*K _ D"]], rows: Float[Tensor, "*K B D"]) -> None:
    """Append a step's rows, then join chunks of equal length, as a binary counter carries.

    In T steps a row is copied log2(T) times instead of T times, and each step reads log2(T) chunks.
    """
    chunks.append(rows)
    while len(chunks) > 1 and chunks[-2].shape[-2] == chunks[-1].shape[-2]:
        last = chunks.pop()
        chunks[-1] = torch.cat([chunks[-1], last], -2)


def train_heads(
    image: StudentHead,
    text: StudentHead,
    targets: Iterable[Float[Tensor, "B B"]],
    loss: Callable[[Float[Tensor, "B B"], Float[Tensor, "B B"]], Float[Tensor, ""]],
    temperature: float,
) -> list[Float[Tensor, ""]]:
    """Train both heads, theta <- theta - η grad loss, one step per minibatch; return the student loss of each step.

    Args:
        image: the image head at its start.
        text: the text head at its start.
        targets: the target matrix of each minibatch.
        loss: the student's loss, a function of logits and target.
        temperature: tau, by which the cosines are divided.
    """
    losses = []
    for target in targets:
        image_taps, text_taps = image.forward(), text.forward()
        logits = to_sphere(image_taps.out) @ to_sphere(text_taps.out).T / temperature
        student_loss = loss(logits, target)
        outputs = (*image_taps.differentiable(), *text_taps.differentiable())
        gradients = torch.autograd.grad(student_loss, outputs, create_graph=True)
        image.step(image_taps, gradients[:3])
        text.step(text_taps, gradients[3:])
        losses.append(student_loss)
    return losses
