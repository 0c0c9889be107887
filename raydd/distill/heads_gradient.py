"""The gradient of the matching loss through students that train heads, for one student or for many side by side.

Students share nothing, so each student gets the result that it would get alone, up to rounding. `matching_losses` waits
for no value from the device, and no shape depends on a random draw.

Letters: K students, N synthetic pairs, U base rows, B minibatch, T student steps, d and e encoder widths, D width of
the shared space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.device import sent
from raydd.distill.heads import to_sphere
from raydd.distill.legs import BothHeads, Leg
from raydd.distill.losses import Loss
from raydd.distill.matching import LearnedPairs, StepLoss, StudentRun, gradients_at, matching_loss
from raydd.distill.similarity import Kind, Similarity
from raydd.distill.student import BlendedRows, BothSides, StudentHeads, StudentPlan


@dataclass(frozen=True)
class Plans:
    """The plans of K students, on the device."""

    minibatches: Int[Tensor, "K T B"]
    permutations: Int[Tensor, "K T B"]
    ratios: tuple[Float[Tensor, "K T 1 1"], Float[Tensor, "K T 1 1"]] | None
    """Blend ratios of images and of texts; None if no student blends."""
    noise: tuple[Float[Tensor, "K T B d"], Float[Tensor, "K T B e"]] | None
    """Noise to blend with, for images and for texts; None: blend with other pairs."""

    @classmethod
    def of(cls, plans: Sequence[StudentPlan], device: str, dtype: torch.dtype) -> Self:
        """Put plans of equal shapes side by side."""
        indices = sent(torch.stack([torch.stack([plan.minibatches, plan.permutations]) for plan in plans]), device)
        ratios = noise = None
        if any(ratio for plan in plans for ratio in plan.ratios):
            side_ratios = [
                [plan.ratios if plan.sides in ("both", side) else (0.0,) * len(plan.ratios) for plan in plans]
                for side in ("image", "text")
            ]
            image, text = sent(torch.tensor(side_ratios, dtype=dtype), device)[..., None, None]
            ratios = image, text
        plan_noise = [(plan.image_noise, plan.text_noise) for plan in plans]
        image_noise, text_noise = (
            [tensor for tensor in side if tensor is not None] for side in zip(*plan_noise, strict=True)
        )
        if image_noise:
            noise = sent(torch.stack(image_noise), device), sent(torch.stack(text_noise), device)
        return cls(indices[:, 0], indices[:, 1], ratios, noise)

    def rows(self, side: int, features: Float[Tensor, "K N d"]) -> BlendedRows:
        """Return the inputs of the image heads (side 0) or text heads (side 1).

        The base rows are all N pairs, or the T·B rows of the minibatches if those are fewer.
        """
        students, steps, size = self.minibatches.shape
        base, index = features, self.minibatches
        if steps * size < features.shape[1]:
            base = features.flatten(0, 1)[self._concatenated_positions(index, features.shape[1]).flatten(1)]
            index = torch.arange(steps * size, device=index.device).view(1, steps, size).expand(students, -1, -1)
        partner = index.gather(-1, self.permutations)
        if self.noise is not None:
            base, pairs = torch.cat([base, self.noise[side].flatten(1, 2)], 1), base.shape[1]
            partner = pairs + torch.arange(steps * size, device=index.device).view(1, steps, size).expand_as(index)
        index, partner = (self._concatenated_positions(positions, base.shape[1]) for positions in (index, partner))
        return BlendedRows(base, index, partner, None if self.ratios is None else self.ratios[side])

    def targets(
        self, kind: Kind, pairs: int, factors: Mapping[str, Tensor], alpha: Float[Tensor, "K 1 1"]
    ) -> Sequence[Float[Tensor, "K B B"]]:
        """Return the target matrices of each step: the minibatches' parts of the similarity matrices.

        Args:
            kind: kind of all similarity matrices.
            pairs: number of pairs N.
            factors: the matrices' factors, with a leading axis of K.
            alpha: scales of the low-rank parts.
        """
        scaled_factors = {
            name: (factor * alpha if name == "left" else factor).flatten(0, 1) for name, factor in factors.items()
        }
        similarity = Similarity(kind, pairs, scaled_factors)
        return similarity.minibatch(self._concatenated_positions(self.minibatches, pairs)).unbind(1)

    @staticmethod
    def _concatenated_positions(index: Int[Tensor, "K T B"], rows: int) -> Int[Tensor, "K T B"]:
        """Turn positions in K tables of `rows` rows each into positions in the K tables concatenated."""
        return index + rows * torch.arange(len(index), device=index.device)[:, None, None]


@dataclass(frozen=True)
class StudentRuns:
    """How all K students train, and which parts of them are matched."""

    plans: Plans
    loss: Loss
    temperature: Float[Tensor, "K 1 1"]
    """tau, by which the cosines are divided."""
    similarity: Kind
    alpha: Float[Tensor, "K 1 1"]
    """Scales of the low-rank parts of the similarity matrices."""
    exact: bool
    matched: tuple[str, ...]
    merged: bool
    """`exact`, `matched` and `merged` are as in `StudentRun`."""


@dataclass(frozen=True)
class StepLosses:
    """The matching losses of K students, on the device (see `StepLoss`)."""

    loss: Float[Tensor, "K"]
    fractions: dict[str, Float[Tensor, "K"]]
    student_losses: list[Float[Tensor, "K"]]
    gradients: dict[str, Tensor]
    """Gradients with a leading axis of K."""


def heads_gradient(run: StudentRun, leg: Leg, pairs: LearnedPairs) -> StepLoss:
    """Return the matching loss of one student, and its gradient.

    Args:
        run: the student's plan, loss and temperature, and which parts of it are matched.
        leg: the expert's leg, on the pairs' device.
        pairs: the synthetic pairs, with features as `images`; a gradient is taken at each tensor that requires one.
    """
    dtype, similarity = pairs.texts.dtype, pairs.similarity
    numbers = sent(torch.tensor([run.temperature, similarity.alpha], dtype=dtype), pairs.device)
    temperature, alpha = numbers.view(2, 1, 1, 1)
    plans = Plans.of([run.plan], pairs.device, dtype)
    alone = StudentRuns(plans, run.loss, temperature, similarity.kind, alpha, run.exact, run.matched, run.merged)
    losses = matching_losses(alone, [leg], {name: tensor[None] for name, tensor in pairs.tensors.items()})
    fractions, gradients = (
        {name: of_one[0] for name, of_one in tensors.items()} for tensors in (losses.fractions, losses.gradients)
    )
    return StepLoss(losses.loss[0], fractions, [loss[0] for loss in losses.student_losses], gradients)


def matching_losses(run: StudentRuns, legs: Sequence[Leg], pairs: Mapping[str, Tensor]) -> StepLosses:
    """Return the matching loss of each student, and its gradient at each tensor of the pairs that requires one.

    Args:
        run: the students' plans, loss and temperatures, and which parts of them are matched.
        legs: each student's leg: its start, and the difference from there to its target.
        pairs: the tensors of `LearnedPairs.tensors`, with a leading axis of K.
    """
    plans = run.plans
    rows = BothSides(plans.rows(0, pairs["image"]), plans.rows(1, pairs["text"]))
    start, delta = BothHeads.of([leg.start for leg in legs]), BothHeads.of([leg.delta for leg in legs])
    heads = StudentHeads(start, rows, pairs["rates"].T.flatten(), through_steps=run.exact)
    factors = {name.removeprefix("similarity."): value for name, value in pairs.items() if "similarity." in name}
    parameters = {name.removeprefix("loss."): value for name, value in pairs.items() if "loss." in name}
    losses = []
    for target in plans.targets(run.similarity, pairs["image"].shape[1], factors, run.alpha):
        taps = heads.forward()
        image, text = to_sphere(taps.out).chunk(2)
        step_losses = _student_losses(run.loss, torch.bmm(image, text.mT) / run.temperature, target, parameters)
        # Students share nothing, so the gradient of the sum is each student's own gradient.
        heads.step(taps, torch.autograd.grad(step_losses.sum(), taps.differentiable(), create_graph=True))
        losses.append(step_losses.detach())
    start_distances = torch.stack([leg.squared for leg in legs], 1)
    end_distances = heads.distances(delta, start_distances.flatten()).view_as(start_distances)
    ends = {side: end_distances[number] for number, side in enumerate(("image", "text")) if side in run.matched}
    begins = {side: start_distances[number] for number, side in enumerate(("image", "text")) if side in run.matched}
    loss = matching_loss(ends, begins, merged=run.merged)
    return StepLosses(
        loss.detach(),
        {f"loss/{side}": (end / begins[side]).detach() for side, end in ends.items()},
        losses,
        gradients_at(pairs, loss.sum()),
    )


def _student_losses(
    loss: Loss,
    logits: Float[Tensor, "K B B"],
    targets: Float[Tensor, "K B B"],
    parameters: Mapping[str, Float[Tensor, "K"]],
) -> Float[Tensor, "K"]:
    """Return each student's loss, computed one after the other if the loss has parameters of its own."""
    if not parameters:
        return loss(logits, targets, {})
    student_parameters = [
        dict(zip(parameters, values, strict=True)) for values in zip(*parameters.values(), strict=True)
    ]
    return torch.stack([loss(*arguments) for arguments in zip(logits, targets, student_parameters, strict=True)])
