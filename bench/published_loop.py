"""The published algorithms in plain code: the baseline of all ratios, and the reference for raydd's numbers in tests.

The code follows RepBlend's published code, which is derived from LoRS's, step by step:

- Heads are flat vectors.
- An expert step augments and encodes its minibatch.
- A distillation step loads an expert's file, encodes the minibatch of each student step under autograd, in two passes,
  and computes TESLA's constant-memory gradient.
- Students train one after another, and encode what they train on.

Random numbers are arguments, so that raydd can use the same ones.

Shapes: N synthetic pairs, B minibatch, T student steps, d and e encoder widths, D shared width, P and Q parameters of
the image head and the text head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

EncodeImages = Callable[[Tensor], Float[Tensor, "B d"]]
EncodeTexts = Callable[[Sequence[str]], Float[Tensor, "B e"]]
Loss = Callable[[Float[Tensor, "B B"], Float[Tensor, "B B"]], Float[Tensor, ""]]


def embed(
    flat: Float[Tensor, "P"], rows: Float[Tensor, "B d"], width: int, dropout: Float[Tensor, "B D"] | None = None
) -> Float[Tensor, "B D"]:
    """Apply a projection head given as one flat vector.

    Layers: Linear, GELU, Linear, dropout, residual, LayerNorm, projection to the unit sphere.
    """
    shapes = [(width, rows.shape[1]), (width,), (width, width), (width,), (width,), (width,)]
    parts = flat.split([torch.Size(shape).numel() for shape in shapes])
    weight, bias, fc_weight, fc_bias, gain, shift = (
        part.view(shape) for part, shape in zip(parts, shapes, strict=True)
    )
    projected = F.linear(rows, weight, bias)
    hidden = F.linear(F.gelu(projected), fc_weight, fc_bias)
    hidden = hidden if dropout is None else hidden * dropout
    out = F.layer_norm(hidden + projected, (width,), gain, shift)
    return out / out.norm(dim=1, keepdim=True)


def weighted_bce(logits: Float[Tensor, "B B"], similarity: Float[Tensor, "B B"]) -> Float[Tensor, ""]:
    """LoRS's loss: half the mean over positives (similarity above 0.5) plus half the mean over negatives."""
    probability = torch.sigmoid(logits)
    element = -similarity * torch.log(probability + 1e-6) - (1 - similarity) * torch.log(1 - probability + 1e-6)
    positive = (similarity > 0.5).to(logits.dtype)
    negative = 1 - positive
    over_positives = (element * positive).sum() / (positive.sum() + 1e-6)
    over_negatives = (element * negative).sum() / (negative.sum() + 1e-6)
    return (over_positives + over_negatives) / 2


def expert_step(
    flats: tuple[Float[Tensor, "P"], Float[Tensor, "Q"]],
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    augment: Callable[[Image.Image], Tensor],
    encode_images: EncodeImages,
    encode_texts: EncodeTexts,
    *,
    width: int,
    lr: float,
    temperature: float,
    dropout: tuple[Tensor | None, Tensor | None] = (None, None),
) -> float:
    """Augment and encode a minibatch, take one SGD step of both heads on it, in place, and return the loss."""
    with torch.no_grad():
        images = encode_images(torch.stack([augment(picture) for picture in pictures]))
        texts = encode_texts(captions)
    for flat in flats:
        flat.requires_grad_()
    logits = embed(flats[0], images, width, dropout[0]) @ embed(flats[1], texts, width, dropout[1]).T / temperature
    labels = torch.arange(len(pictures))
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    loss.backward()
    with torch.no_grad():
        for flat in flats:
            assert flat.grad is not None
            flat -= lr * flat.grad
            flat.grad = None
    return loss.item()


def write_trajectory(path: Path, snapshots: Sequence[tuple[Float[Tensor, "P"], Float[Tensor, "Q"]]]) -> None:
    """Store an expert as the published code does: parameters of both heads after every epoch, in one file."""
    torch.save([[image, text] for image, text in snapshots], path)


@dataclass(frozen=True)
class Variables:
    """The learned variables of a distillation."""

    image: Tensor
    """N images, or their features if `encode_images` is the identity."""
    text: Float[Tensor, "N e"]
    diagonal: Float[Tensor, "N"]
    left: Float[Tensor, "N r"]
    right: Float[Tensor, "N r"]
    rates: Float[Tensor, "2"]
    """Learning rates of the student's image head and text head."""


@dataclass(frozen=True)
class Plan:
    """The random draws of one distillation step."""

    start_epoch: int
    target_epoch: int
    minibatches: Int[Tensor, "T B"]
    permutations: Int[Tensor, "T B"]
    ratios: tuple[float, ...]
    """Blending weight of the partner in each student step."""


def distillation_step(
    variables: Variables,
    expert: Path,
    plan: Plan,
    encode_images: EncodeImages,
    *,
    width: int,
    alpha: float,
    temperature: float,
    loss: Loss = weighted_bce,
) -> tuple[float, Variables]:
    """Return the matching loss of one distillation step and its constant-memory gradient for every variable.

    The first pass trains the student and keeps its parameters of each step. The second pass encodes each minibatch
    again, and differentiates the student's gradient along a direction that depends on all student steps.
    """
    trajectory = torch.load(expert, weights_only=True)
    start, target = trajectory[plan.start_epoch], trajectory[plan.target_epoch]
    students = [[flat.clone().requires_grad_()] for flat in start]
    sums = [torch.zeros_like(flat) for flat in start]
    student_steps = []
    for index, permutation, ratio in zip(plan.minibatches, plan.permutations, plan.ratios, strict=True):
        parts = [
            part[index].clone().requires_grad_()
            for part in (variables.image, variables.text, variables.diagonal, variables.left, variables.right)
        ]
        student_steps.append((index, permutation, ratio, parts))
        heads = [student[-1] for student in students]
        value = _student_loss(heads, parts, permutation, ratio, encode_images, width, alpha, temperature, loss)
        for student, total, rate, head in zip(students, sums, variables.rates.tolist(), heads, strict=True):
            gradient = torch.autograd.grad(value, head, create_graph=True)[0].detach().clone()
            student.append((student[-1].detach() - rate * gradient).requires_grad_())
            total += gradient
    squared_distances = [(begin - end).square().sum() for begin, end in zip(start, target, strict=True)]
    gradients = Variables(*(torch.zeros_like(value) for value in vars(variables).values()))
    for step, (index, permutation, ratio, parts) in enumerate(student_steps):
        heads = [student[step] for student in students]
        value = _student_loss(heads, parts, permutation, ratio, encode_images, width, alpha, temperature, loss)
        directional = torch.zeros((), dtype=value.dtype)
        for side, rate in enumerate(variables.rates.tolist()):
            gradient = torch.autograd.grad(value, heads[side], create_graph=True)[0]
            direction = rate * (target[side] - start[side]) + rate**2 * sums[side]
            directional = directional + 2 * direction @ gradient / squared_distances[side]
        learned = (gradients.image, gradients.text, gradients.diagonal, gradients.left, gradients.right)
        for gradient, part in zip(learned, torch.autograd.grad(directional, parts), strict=True):
            gradient[index] += part
    total = 0.0
    for side in range(2):
        rate = variables.rates[side].detach().clone().requires_grad_()
        end = start[side] - rate * sums[side] - target[side]
        fraction = end @ end / squared_distances[side]
        gradients.rates[side] = torch.autograd.grad(fraction, rate)[0]
        total += fraction.item()
    return total, gradients


def _student_loss(
    heads: Sequence[Tensor],
    parts: Sequence[Tensor],
    permutation: Tensor,
    ratio: float,
    encode_images: EncodeImages,
    width: int,
    alpha: float,
    temperature: float,
    loss: Loss,
) -> Float[Tensor, ""]:
    """Return the loss of a student step: encode, blend, project, compare with the minibatch's similarity matrix."""
    image, text, diagonal, left, right = parts
    images = encode_images(image)
    images = (1 - ratio) * images + ratio * images[permutation]
    texts = (1 - ratio) * text + ratio * text[permutation]
    logits = embed(heads[0], images, width) @ embed(heads[1], texts, width).T / temperature
    return loss(logits, torch.diag(diagonal) + alpha / left.shape[1] * left @ right.T)
