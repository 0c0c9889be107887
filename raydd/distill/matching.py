"""The matching loss, and what its gradients have in common: `heads_gradient.py` and `encoder_gradient.py`.

The matching loss is the squared distance from the student's end to the expert's target, divided by the squared distance
from the student's start to that target.

Letters: N synthetic pairs, S side in pixels, d and e widths of the image and the text encoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.distill.losses import Loss
from raydd.distill.similarity import Similarity
from raydd.distill.student import StudentPlan

Number = float | Float[Tensor, ""]


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
    """A distillation step's loss and its gradient. Its numbers stay on the device until `read_numbers` reads them."""

    loss: Number
    fractions: Mapping[str, Number]
    """Parts of the loss: one for each matched side, `loss/image` and `loss/text`, or the parts of another objective."""
    student_losses: list[Number]
    """The student's loss before each of its steps; empty if no student is trained."""
    gradients: dict[str, Tensor]
    """Gradients by the names of `LearnedPairs.tensors`; tensors without a gradient are left out."""
    norms: dict[str, Number] = field(default_factory=dict)
    """Norms to report instead of the norms of `gradients` (see `LearnedPixels`)."""

    @classmethod
    def of(cls, loss: Float[Tensor, ""], pairs: LearnedPairs, parts: Mapping[str, Tensor]) -> Self:
        """Return a loss without students, with its gradient at each tensor of the pairs that requires one."""
        fractions = {f"loss/{name}": part.detach() for name, part in parts.items()}
        return cls(loss.detach(), fractions, [], gradients_at(pairs.tensors, loss))


def read_numbers(numbers: Mapping[str, Number]) -> dict[str, float]:
    """Return numbers of which some are tensors as Python's numbers; waits for the device once."""
    tensors = {name: number.detach() for name, number in numbers.items() if isinstance(number, Tensor)}
    read = dict(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True)) if tensors else {}
    return {name: read[name] if name in read else float(number) for name, number in numbers.items()}


def matching_loss(
    end_distances: Mapping[str, Float[Tensor, "*K"]],
    start_distances: Mapping[str, Float[Tensor, "*K"]],
    *,
    merged: bool,
) -> Float[Tensor, "*K"]:
    """Return the sum over the matched networks of |theta_T - theta*|² / |theta_0 - theta*|².

    Args:
        end_distances: |theta_T - theta*|² of each matched network: of image and text, or of text alone.
        start_distances: |theta_0 - theta*|², likewise.
        merged: sum numerators and denominators before dividing, as the RepBlend paper writes it.
    """
    if merged:
        return torch.as_tensor(sum(end_distances.values()) / sum(start_distances.values()))
    return torch.as_tensor(sum(end / start_distances[name] for name, end in end_distances.items()))


def gradients_at(tensors: Mapping[str, Tensor], loss: Float[Tensor, ""]) -> dict[str, Tensor]:
    """Return a loss's gradient at each tensor that requires one and on which the loss depends."""
    learned = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(learned, gradients, strict=True) if gradient is not None}
