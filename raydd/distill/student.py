"""The student of a distillation step: plain SGD on synthetic minibatches, kept as a sum of outer products.

After k steps a weight is W_k = W_0 - η Σ_j δ_jᵀ x_j, the sum running over the at most k·B rows x_j that the student has
seen and the loss gradients δ_j at the layer's output. Neither W_k nor its gradient is ever formed: what the walk and
the matching loss need of them are products of thin matrices. That is exact, not an approximation, and autograd
differentiates it in place of P-sized copies of the heads.

Letters: N synthetic pairs, U of them used by a plan, B minibatch, T student steps, M rows seen so far, d and e encoder
widths, D shared width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.blending import blend
from raydd.distill.heads import Head, Taps, taps_from, to_sphere
from raydd.distill.products import linear


@dataclass(frozen=True)
class StudentPlan:
    """Everything random about a student's T steps, drawn beforehand."""

    minibatches: Int[Tensor, "T B"]
    """Indices of the synthetic pairs of each step."""
    permutations: Int[Tensor, "T B"]
    """Blending partners of each step, as positions within the minibatch."""
    ratios: tuple[float, ...]
    """Blend ratio of each step."""
    image_noise: Float[Tensor, "T B d"] | None = None
    """Partners that are noise, in place of other pairs; None blends with other pairs."""
    text_noise: Float[Tensor, "T B e"] | None = None
    sides: Literal["both", "image", "text"] = "both"
    """Which modalities are blended."""

    def to(self, device: str) -> "StudentPlan":
        """The plan with its tensors on a device."""
        tensors = (self.image_noise, self.text_noise)
        image_noise, text_noise = (None if noise is None else noise.to(device) for noise in tensors)
        return StudentPlan(
            self.minibatches.to(device), self.permutations.to(device), self.ratios, image_noise, text_noise, self.sides
        )


class WalkingHead:
    """One head on its walk away from `start`.

    The inputs of its first layer are blends of the pairs that the plan uses. That layer is linear, so its products are
    taken with these base rows, each once, and blended afterwards; the T·B inputs themselves are never formed.
    """

    def __init__(
        self, start: Head, features: Float[Tensor, "N d"], rate: Float[Tensor, ""], *, through_steps: bool
    ) -> None:
        """Put the head at its start.

        Args:
            start: the expert's snapshot theta_0, constant.
            features: the synthetic features of all pairs.
            rate: the student's learning rate η.
            through_steps: let gradients flow through earlier steps (exact), or stop them there (constant memory).
        """
        # The student's own gradients are taken by autograd too, so constant features still need a graph.
        features = features if features.requires_grad else features.detach().requires_grad_()
        self.start, self.features, self.rate, self.through_steps = start, features, rate, through_steps
        self.steps = 0
        self.first: list[Tensor] = []  # δ at the first layer's output, see `_append`
        self.hidden: list[Tensor] = []  # gelu(p), inputs of the second layer
        self.second: list[Tensor] = []  # δ at the second layer's output
        self.norm_weight = torch.zeros_like(start.norm_weight)  # gradients of the LayerNorm's γ and β, summed
        self.norm_bias = torch.zeros_like(start.norm_bias)

    def begin(self, plan: StudentPlan, noise: Float[Tensor, "T B d"] | None, *, blended: bool) -> None:
        """Take the first layer's products with all that the plan uses: U pairs, and T·B rows of noise if there are.

        Args:
            plan: minibatches, partners and blend ratios.
            noise: this side's partners, in place of other pairs.
            blended: whether this side is blended at all.
        """
        used, self._own = plan.minibatches.unique(return_inverse=True)
        self._base, self._partner = self.features[used], self._own.gather(1, plan.permutations)
        if noise is not None:
            self._base = torch.cat([self._base, noise.flatten(0, 1)])
            self._partner = len(used) + torch.arange(self._own.numel(), device=used.device).view_as(self._own)
        ratios = torch.tensor(plan.ratios, dtype=self._base.dtype, device=used.device)
        self._ratios = ratios[:, None, None] if blended and any(plan.ratios) else None
        self._projected = self._blended(linear(self._base, self.start.projection_weight, self.start.projection_bias))
        self._kernel = self._inner_products(self._past(self._base))
        self._kernels = self._kernel.split(plan.minibatches.shape[1])

    def forward(self) -> Taps:
        """The next minibatch through the head under its current parameters."""
        p = self._projected[self.steps]
        lengths = [len(first) for first in self.first]
        kernels = self._kernels[self.steps].split([*lengths, self._own.numel() - sum(lengths)], dim=1)
        for kernel, first in zip(kernels, self.first, strict=False):  # the last kernel is of steps to come
            p = p - self._moved(kernel, first)

        def second(hidden: Tensor) -> Tensor:
            h = linear(hidden, self.start.fc_weight, self.start.fc_bias)
            for inputs, gradients in zip(self.hidden, self.second, strict=True):
                h = h - self._moved(hidden @ self._past(inputs).T + 1, gradients)
            return h

        rate = self._past(self.rate)
        return taps_from(
            p,
            second,
            self.start.norm_weight - rate * self._past(self.norm_weight),
            self.start.norm_bias - rate * self._past(self.norm_bias),
        )

    def step(self, taps: Taps, gradients: tuple[Tensor, ...]) -> None:
        """Take one SGD step, given the loss's gradients at p, h and out."""
        at_p, at_h, at_out = gradients
        self.steps += 1
        for chunks, rows in ((self.first, at_p), (self.hidden, taps.hidden), (self.second, at_h)):
            _append(chunks, rows)
        self.norm_weight = self.norm_weight + (at_out * taps.normed).sum(0)
        self.norm_bias = self.norm_bias + at_out.sum(0)

    def distance(self, target: Head) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """|theta_T - theta*|² and |theta_0 - theta*|², over all parameters.

        The first is |Δ|² - 2η <Δ, G> + η² |G|² with Δ = theta_0 - theta* and G the sum of the steps' gradients.
        """
        delta = Head(*(ours - theirs for ours, theirs in zip(self.start, target, strict=True)))
        squared = torch.stack([part.flatten() @ part.flatten() for part in delta]).sum()
        first, hidden, second = torch.cat(self.first), torch.cat(self.hidden), torch.cat(self.second)
        projected = self._blended(linear(self._base, delta.projection_weight, delta.projection_bias))
        along = (first * projected.flatten(0, 1)).sum()
        along = along + (second * linear(hidden, delta.fc_weight, delta.fc_bias)).sum()
        along = along + self.norm_weight @ delta.norm_weight + self.norm_bias @ delta.norm_bias
        kernel = self._kernel if self.through_steps else self._inner_products(self._base)
        length = ((first @ first.T) * kernel).sum() + ((second @ second.T) * (hidden @ hidden.T + 1)).sum()
        length = length + self.norm_weight.square().sum() + self.norm_bias.square().sum()
        return squared - 2 * self.rate * along + self.rate.square() * length, squared

    def _moved(self, kernel: Float[Tensor, "B M"], gradients: Float[Tensor, "M D"]) -> Float[Tensor, "B D"]:
        """What some steps have added to a layer's output, to subtract: η (X X_seenᵀ + 1) δ_seen."""
        return self._past(self.rate) * (kernel @ self._past(gradients))

    def _inner_products(self, others: Float[Tensor, "U d"]) -> Float[Tensor, "T*B T*B"]:
        """X Xᵀ + 1 of all steps' inputs, the second X made of `others`; 1 is the input of a bias."""
        rows = self._blended(self._base @ others.T + 1).flatten(0, 1)
        return self._blended(rows.T).flatten(0, 1).T

    def _blended(self, base: Float[Tensor, "U c"]) -> Float[Tensor, "T B c"]:
        """Each step's minibatch of what the base rows stand for."""
        own = base.index_select(0, self._own.flatten()).view(*self._own.shape, -1)
        if self._ratios is None:
            return own
        partner = base.index_select(0, self._partner.flatten()).view_as(own)
        return blend(own, partner, self._ratios)

    def _past(self, tensor: Tensor) -> Tensor:
        return tensor if self.through_steps else tensor.detach()


def _append(chunks: list[Float[Tensor, "_ D"]], rows: Float[Tensor, "B D"]) -> None:
    """Add a step's rows to those before, joining chunks of equal length as a binary counter carries.

    A row is copied log2(T) times in T steps, not T times, and each step meets log2(T) chunks.
    """
    chunks.append(rows)
    while len(chunks) > 1 and len(chunks[-2]) == len(chunks[-1]):
        last = chunks.pop()
        chunks[-1] = torch.cat([chunks[-1], last])


def walk(
    image: WalkingHead,
    text: WalkingHead,
    plan: StudentPlan,
    similarity: Callable[[Int[Tensor, "B"]], Float[Tensor, "B B"]],
    loss: Callable[[Float[Tensor, "B B"], Float[Tensor, "B B"]], Float[Tensor, ""]],
    temperature: float,
) -> list[Float[Tensor, ""]]:
    """Walk both heads through the plan's T steps, theta <- theta - η grad loss; gives each step's student loss.

    Args:
        image: the image head at its start.
        text: the text head at its start.
        plan: minibatches, partners and blend ratios.
        similarity: the target matrix of a minibatch.
        loss: of logits and target.
        temperature: tau, which divides the cosines.
    """
    image.begin(plan, plan.image_noise, blended=plan.sides != "text")
    text.begin(plan, plan.text_noise, blended=plan.sides != "image")
    losses = []
    for index in plan.minibatches:
        image_taps, text_taps = image.forward(), text.forward()
        logits = to_sphere(image_taps.out) @ to_sphere(text_taps.out).T / temperature
        value = loss(logits, similarity(index))
        at = (*image_taps.differentiable(), *text_taps.differentiable())
        gradients = torch.autograd.grad(value, at, create_graph=True)
        image.step(image_taps, gradients[:3])
        text.step(text_taps, gradients[3:])
        losses.append(value)
    return losses
