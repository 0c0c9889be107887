"""The student of a distillation step: plain SGD on synthetic minibatches, kept as a sum of outer products.

After k steps a weight is W_k = W_0 - η Σ_j δ_jᵀ x_j, the sum running over the at most k·B rows x_j that the student has
seen and the loss gradients δ_j at the layer's output. Neither W_k nor its gradient is ever formed: what the walk and
the matching loss need of them are products of thin matrices. That is exact, not an approximation, and autograd
differentiates it in place of P-sized copies of the heads.

Letters: N synthetic pairs, B minibatch, T student steps, M rows seen so far, d and e encoder widths, D shared width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.blending import blend
from raydd.distill.heads import Head, Taps, taps_from, to_sphere
from raydd.distill.losses import Loss


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

    def to(self, device: str) -> "StudentPlan":
        """The plan with its tensors on a device."""
        tensors = (self.image_noise, self.text_noise)
        image_noise, text_noise = (None if noise is None else noise.to(device) for noise in tensors)
        return StudentPlan(
            self.minibatches.to(device), self.permutations.to(device), self.ratios, image_noise, text_noise
        )


class WalkingHead:
    """One head on its walk away from `start`."""

    def __init__(
        self, start: Head, features: Float[Tensor, "N d"], rate: Float[Tensor, ""], *, through_steps: bool
    ) -> None:
        """Begin the walk.

        Args:
            start: the expert's snapshot theta_0, constant.
            features: the synthetic features of all pairs.
            rate: the student's learning rate η.
            through_steps: let gradients flow through earlier steps (exact), or stop them there (constant memory).
        """
        # The student's own gradients are taken by autograd too, so constant features still need a graph.
        features = features if features.requires_grad else features.detach().requires_grad_()
        self.start, self.features, self.rate, self.through_steps = start, features, rate, through_steps
        self.rows_in: list[Tensor] = []  # x, inputs of the first layer
        self.first: list[Tensor] = []  # δ at the first layer's output
        self.hidden: list[Tensor] = []  # gelu(p), inputs of the second layer
        self.second: list[Tensor] = []  # δ at the second layer's output
        self.norm_weight = torch.zeros_like(start.norm_weight)  # gradients of the LayerNorm's γ and β, summed
        self.norm_bias = torch.zeros_like(start.norm_bias)
        # Blending is linear, so the first layer's product is taken once for the N pairs and blended afterwards.
        self.projected = F.linear(features, start.projection_weight, start.projection_bias)

    def forward(self, rows: Float[Tensor, "B d"], projected: Float[Tensor, "B D"]) -> Taps:
        """A minibatch through the head under its current parameters."""

        def second(hidden: Tensor) -> Tensor:
            at_start = F.linear(hidden, self.start.fc_weight, self.start.fc_bias)
            return at_start - self._moved(hidden, self.hidden, self.second)

        rate = self._past(self.rate)
        return taps_from(
            projected - self._moved(rows, self.rows_in, self.first),
            second,
            self.start.norm_weight - rate * self._past(self.norm_weight),
            self.start.norm_bias - rate * self._past(self.norm_bias),
        )

    def step(self, rows: Tensor, taps: Taps, gradients: tuple[Tensor, ...]) -> None:
        """Take one SGD step, given the loss's gradients at p, h and out."""
        at_p, at_h, at_out = gradients
        self.rows_in.append(rows)
        self.first.append(at_p)
        self.hidden.append(taps.hidden)
        self.second.append(at_h)
        self.norm_weight = self.norm_weight + (at_out * taps.normed).sum(0)
        self.norm_bias = self.norm_bias + at_out.sum(0)

    def distance(self, target: Head) -> Float[Tensor, ""]:
        """|theta_T - theta*|², over all parameters, as |Δ|² - 2η <Δ, G> + η² |G|² with Δ = theta_0 - theta*."""
        delta = Head(*(ours - theirs for ours, theirs in zip(self.start, target, strict=True)))
        squared = sum((part * part).sum() for part in delta)
        if not self.rows_in:
            return torch.as_tensor(squared)
        rows_in, first = torch.cat(self.rows_in), torch.cat(self.first)
        hidden, second = torch.cat(self.hidden), torch.cat(self.second)
        along = (first * F.linear(rows_in, delta.projection_weight, delta.projection_bias)).sum()
        along = along + (second * F.linear(hidden, delta.fc_weight, delta.fc_bias)).sum()
        along = along + (self.norm_weight * delta.norm_weight).sum() + (self.norm_bias * delta.norm_bias).sum()
        # A bias is a weight whose input is 1, hence the + 1 beside the inputs' inner products.
        length = ((first @ first.T) * (rows_in @ rows_in.T + 1)).sum()
        length = length + ((second @ second.T) * (hidden @ hidden.T + 1)).sum()
        length = length + self.norm_weight.square().sum() + self.norm_bias.square().sum()
        return squared - 2 * self.rate * along + self.rate.square() * length

    def _moved(self, rows: Tensor, inputs: list[Tensor], gradients: list[Tensor]) -> Tensor | float:
        """What the steps so far have added to a layer's output, to subtract: η (X X_seenᵀ + 1) δ_seen."""
        if not inputs:
            return 0.0
        seen, moved = self._past(torch.cat(inputs)), self._past(torch.cat(gradients))
        return self._past(self.rate) * ((rows @ seen.T + 1) @ moved)

    def _past(self, tensor: Tensor) -> Tensor:
        return tensor if self.through_steps else tensor.detach()


def walk(
    image: WalkingHead,
    text: WalkingHead,
    plan: StudentPlan,
    similarity: Callable[[Int[Tensor, "B"]], Float[Tensor, "B B"]],
    loss: Loss,
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
    losses = []
    for step, (index, permutation, ratio) in enumerate(
        zip(plan.minibatches, plan.permutations, plan.ratios, strict=True)
    ):
        image_rows, image_projected = _blended(image, index, permutation, ratio, _at(plan.image_noise, step))
        text_rows, text_projected = _blended(text, index, permutation, ratio, _at(plan.text_noise, step))
        image_taps = image.forward(image_rows, image_projected)
        text_taps = text.forward(text_rows, text_projected)
        logits = to_sphere(image_taps.out) @ to_sphere(text_taps.out).T / temperature
        value = loss(logits, similarity(index))
        at = (*image_taps.differentiable(), *text_taps.differentiable())
        gradients = torch.autograd.grad(value, at, create_graph=True)
        image.step(image_rows, image_taps, gradients[:3])
        text.step(text_rows, text_taps, gradients[3:])
        losses.append(value)
    return losses


def _blended(
    head: WalkingHead, index: Tensor, permutation: Tensor, ratio: float, noise: Tensor | None
) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B D"]]:
    rows, projected = head.features[index], head.projected[index]
    if ratio == 0:
        return rows, projected
    if noise is None:
        return blend(rows, permutation, ratio), blend(projected, permutation, ratio)
    partner = F.linear(noise, head.start.projection_weight, head.start.projection_bias)
    return torch.lerp(rows, noise, ratio), torch.lerp(projected, partner, ratio)


def _at(noise: Tensor | None, step: int) -> Tensor | None:
    return None if noise is None else noise[step]
