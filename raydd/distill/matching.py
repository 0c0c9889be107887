"""The matching loss, its gradient through students that train heads, and the parts that `encoder_gradient` shares.

The matching loss is the squared distance from the student's end to the expert's target, divided by the squared distance
from the student's start to that target.

Letters: N synthetic pairs, S side in pixels, d and e widths of the image and the text encoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.distill.legs import Leg, require_moved
from raydd.distill.losses import Loss
from raydd.distill.similarity import Similarity
from raydd.distill.student import BlendedRows, StudentHead, StudentPlan, train_heads


@dataclass(frozen=True)
class LearnedPairs:
    """The synthetic pairs as a student sees them."""

    images: Float[Tensor, "N d"] | Float[Tensor, "N 3 S S"]
    """Image features; or pixels in 0 to 1, if the student trains the image encoder."""
    texts: Float[Tensor, "N e"]
    similarity: Similarity
    rates: Float[Tensor, "2"]
    """The student's learning rates η: of the image side and of the text head."""
    loss: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    """The loss's own parameters by name."""
    objective: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Parameters that the objective itself learns, by name."""

    @property
    def device(self) -> str:
        """The device of the tensors."""
        return str(self.texts.device)

    @property
    def down(self) -> tuple[float, float]:
        """-η of both sides: the factors by which a student step multiplies its gradient."""
        image, text = self.rates.tolist()
        return -image, -text

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors at which gradients are taken: `image`, `text`, `rates`, `similarity.FACTOR` for each factor,
        `loss.NAME` and `objective.NAME` for each parameter of the loss and of the objective."""
        factors = {f"similarity.{name}": factor for name, factor in self.similarity.factors.items()}
        parameters = {f"loss.{name}": value for name, value in self.loss.items()}
        objective = {f"objective.{name}": value for name, value in self.objective.items()}
        return {"image": self.images, "text": self.texts, "rates": self.rates, **factors, **parameters, **objective}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], similarity: Similarity) -> Self:
        """Return the pairs that have these `tensors`, with a similarity of the same kind as the given one."""
        factors = {name: tensors[f"similarity.{name}"] for name in similarity.factors}
        loss, objective = (
            {name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)}
            for kind in ("loss.", "objective.")
        )
        return cls(
            tensors["image"], tensors["text"], similarity.with_factors(factors), tensors["rates"], loss, objective
        )


@dataclass(frozen=True)
class StudentRun:
    """How a student trains and which parts of it are matched: everything except the pairs and the start weights."""

    plan: StudentPlan
    loss: Loss
    temperature: float
    """tau, by which the cosines are divided."""
    exact: bool
    """True: the gradient goes through all student steps; False: TESLA's constant-memory gradient."""
    matched: tuple[str, ...] = ("image", "text")
    """The sides whose weights are matched."""
    merged: bool = False
    """Sum both sides' distances before dividing."""

    @property
    def steps(self) -> int:
        """Student steps T."""
        return len(self.plan.minibatches)


@dataclass(frozen=True)
class StepLoss:
    """A distillation step's loss and its gradient."""

    loss: float
    fractions: dict[str, float]
    """Parts of the loss: one for each matched side, `loss/image` and `loss/text`, or the parts of another objective."""
    student_losses: list[float]
    """The student's loss before each of its steps; empty if no student is trained."""
    gradients: dict[str, Tensor]
    """Gradients by the names of `LearnedPairs.tensors`; tensors without a gradient are left out."""
    norms: dict[str, float] = field(default_factory=dict)
    """Norms to report instead of the norms of `gradients` (see `LearnedPixels`)."""

    @classmethod
    def of(cls, loss: Float[Tensor, ""], pairs: LearnedPairs, parts: Mapping[str, Tensor]) -> Self:
        """Return a loss without students, with its gradient at each tensor of the pairs that requires one."""
        fractions = {f"loss/{name}": float(part.detach()) for name, part in parts.items()}
        return cls(float(loss.detach()), fractions, [], gradients_of(loss, pairs))


class Trained(Protocol):
    """A network after its student steps."""

    def distance(self, target: Any) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return |theta_T - theta*|² and |theta_0 - theta*|², over all parameters."""
        ...


def matching_loss(
    students: Mapping[str, Trained], targets: Mapping[str, Any], *, merged: bool
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Return the sum over networks of |theta_T - theta*|² / |theta_0 - theta*|²; if merged, one fraction of both sums.

    Args:
        students: the matched networks after their student steps: image and text, or text alone.
        targets: for each network the expert's later snapshot, or the `Displacement` to it.
        merged: sum numerators and denominators before dividing, as the RepBlend paper writes it.

    Returns:
        The loss, and each network's own fraction.

    Raises:
        NonFiniteError: the expert did not move between start and target.
    """
    distances = {name: student.distance(targets[name]) for name, student in students.items()}
    ends = {name: end for name, (end, _) in distances.items()}
    begins = {name: begin for name, (_, begin) in distances.items()}
    require_moved(begin.detach() for begin in begins.values())
    fractions = {f"loss/{name}": float(ends[name].detach() / begins[name].detach()) for name in students}
    return combine_distances(ends, begins, merged=merged), fractions


def combine_distances(
    end_distances: Mapping[str, Float[Tensor, "*K"]],
    start_distances: Mapping[str, Float[Tensor, "*K"]],
    *,
    merged: bool,
) -> Float[Tensor, "*K"]:
    """Return the matching loss, given each network's squared distance to its target at the end and at the start."""
    if merged:
        return torch.as_tensor(sum(end_distances.values()) / sum(start_distances.values()))
    return torch.as_tensor(sum(end / start_distances[name] for name, end in end_distances.items()))


def heads_gradient(run: StudentRun, leg: Leg, pairs: LearnedPairs) -> StepLoss:
    """Return the matching loss of a student that trains heads, and its gradient.

    Args:
        run: the student's plan, loss and temperature, and which parts of it are matched.
        leg: the expert's leg, on the pairs' device.
        pairs: the synthetic pairs, with features as `images`; a gradient is taken at each tensor that requires one.
    """
    image_start, text_start = leg.start
    image_rows = BlendedRows.of_plan(run.plan, "image", pairs.images)
    text_rows = BlendedRows.of_plan(run.plan, "text", pairs.texts)
    image = StudentHead(image_start, image_rows, pairs.rates[0], through_steps=run.exact)
    text = StudentHead(text_start, text_rows, pairs.rates[1], through_steps=run.exact)
    targets = map(pairs.similarity.minibatch, run.plan.minibatches)
    losses = train_heads(image, text, targets, partial(run.loss, parameters=pairs.loss), run.temperature)
    students = {"image": image, "text": text}
    displacements = dict(zip(students, leg.displacements, strict=True))
    loss, fractions = matching_loss({side: students[side] for side in run.matched}, displacements, merged=run.merged)
    student_losses = [float(value.detach()) for value in losses]
    return StepLoss(float(loss.detach()), fractions, student_losses, gradients_of(loss, pairs))


def gradients_of(loss: Float[Tensor, ""], pairs: LearnedPairs) -> dict[str, Tensor]:
    """Return a loss's gradient at each tensor of the pairs that requires one and on which the loss depends."""
    tensors = {name: tensor for name, tensor in pairs.tensors.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(tensors, gradients, strict=True) if gradient is not None}
