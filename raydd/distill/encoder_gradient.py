"""The gradient of the matching loss through students whose whole image encoder is trained, in constant memory.

The student is trained without a graph. Then each of its steps is repeated on its own, and the step's gradient g is
differentiated along a direction v (one double backward). With λ = ∂L/∂θ_T at the student's end, and v = -η λ, a step's
part of the gradient at the synthetic pairs is ∂<g, v>:

- constant memory (TESLA, which stops the gradient at the start of each step): λ stays the same. The steps are repeated
  in order from the start, so nothing is kept between them, and memory does not depend on their number.
- exact (MTT, unrolled): the steps are repeated backwards, and λ becomes λ + ∂<g, v>/∂θ (the adjoint of the steps). Only
  the weights θ_k of the steps are kept, whereas unrolling keeps the graph of each step. The weights stay on the GPU if
  they take at most a quarter of its free memory, otherwise they go to the CPU.

Letters: N synthetic pairs, B minibatch, T student steps, θ the trained weights, η the student's learning rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.encoder_passes import (
    EncodedImages,
    TrainedEncoder,
    Weights,
    inner,
    leaves,
    moved,
    squared_distance,
)
from raydd.distill.encoder_student import Networks, StudentStep, loss_and_gradient
from raydd.distill.legs import most_bytes_on, require_moved
from raydd.distill.matching import LearnedPairs, Number, StepLoss, StudentRun, matching_loss


def matching_gradient(
    encoder: TrainedEncoder, run: StudentRun, start: Networks, target: Networks, pairs: LearnedPairs
) -> StepLoss:
    """Return the matching loss of a student that starts at `start`, with `target` as its target, and its gradient.

    Args:
        encoder: the image encoder.
        run: the student's plan, loss and temperature, and which parts of it are matched.
        start: the expert's snapshot from which the student starts.
        target: the expert's later snapshot.
        pairs: the synthetic pairs, with pixels as `images`; a gradient is taken at each of their tensors.

    Raises:
        NonFiniteError: start and target are equal.
    """
    pairs = LearnedPairs.of({name: tensor.detach() for name, tensor in pairs.tensors.items()}, pairs.similarity)
    networks, student_losses, step_networks, down = start, [], [], pairs.down
    kept_device = weights_device(start, run.steps, pairs.device) if run.exact else "cpu"
    for step in range(run.steps):
        if run.exact:
            step_networks.append(networks.to(kept_device))
        student_loss, gradient = _student_gradient(encoder, run, step, networks, pairs)
        student_losses.append(student_loss)
        networks = networks.moved(gradient, down)
    matched_loss, fractions, at_end = _differentiate_matching(run, start, networks, target)
    total = _GradientSum(pairs)
    if run.exact:
        for step in reversed(range(run.steps)):
            step_part = _repeat_step(encoder, run, step, step_networks.pop().to(pairs.device), pairs, at_end, down)
            total.add(run.plan.minibatches[step], step_part)
            at_end = at_end.moved(step_part.at_start, (1.0, 1.0))
    else:
        networks = start
        for step in range(run.steps):
            step_part = _repeat_step(encoder, run, step, networks, pairs, at_end, down)
            total.add(run.plan.minibatches[step], step_part)
            networks = networks.moved(step_part.gradient, down)
    return StepLoss(matched_loss, fractions, student_losses, total.gradients)


def weights_device(networks: Networks, steps: int, device: str) -> str:
    """Return the device on which the weights of all student steps are kept."""
    needed_bytes = steps * sum(weight.nbytes for weights in networks for weight in weights.values())
    return device if needed_bytes <= most_bytes_on(device) else "cpu"


@dataclass(frozen=True)
class _StepGradient:
    """What one student step adds to the gradient; the module's docstring explains g, v, η and λ."""

    gradient: Networks
    """g, the gradient that the step goes down."""
    at_pixels: Float[Tensor, "B 3 S S"]
    at_texts: Float[Tensor, "B e"]
    at_others: dict[str, Tensor]
    """At the factors of the similarity and the parameters of the loss, by the names of `LearnedPairs.tensors`."""
    at_rates: Float[Tensor, "2"]
    at_start: Networks
    """∂<g, v>/∂θ, which is added to λ; without weights unless the gradient is exact."""


def _student_step(run: StudentRun, step: int) -> StudentStep:
    """Return the part of a student step after the encoder."""
    plan = run.plan
    ratios = (
        0.0 if plan.sides == "text" else plan.ratios[step],
        0.0 if plan.sides == "image" else plan.ratios[step],
    )
    return StudentStep(run.loss, run.temperature, plan.permutations[step], ratios)


def _student_gradient(
    encoder: TrainedEncoder, run: StudentRun, step: int, networks: Networks, pairs: LearnedPairs
) -> tuple[Float[Tensor, ""], Networks]:
    """Return the student's loss and its gradient g, without a graph."""
    index, loss_after_encoder = run.plan.minibatches[step], _student_step(run, step)

    def loss_of(features: Float[Tensor, "B d"], text: Weights) -> Float[Tensor, ""]:
        return loss_after_encoder(features, text, pairs.texts[index], pairs.similarity.minibatch(index), pairs.loss)

    return loss_and_gradient(encoder, networks, pairs.images[index], loss_of)


def _repeat_step(
    encoder: TrainedEncoder,
    run: StudentRun,
    step: int,
    networks: Networks,
    pairs: LearnedPairs,
    at_end: Networks,
    down: tuple[float, float],
) -> _StepGradient:
    """Repeat a student step, and return its part of the gradient: g, and the derivatives of <g, v> for v = -η λ.

    `down` is -η of both sides, read once for all steps.
    """
    index = run.plan.minibatches[step]
    encoded, text = EncodedImages(encoder, networks.image, pairs.images[index]), leaves(networks.text)
    texts = pairs.texts[index].requires_grad_()
    factors = leaves(pairs.similarity.factors)
    parameters = leaves(pairs.loss)
    similarity = pairs.similarity.with_factors(factors).minibatch(index)
    loss = _student_step(run, step)(encoded.features, text, texts, similarity, parameters)
    at_features, *at_text = torch.autograd.grad(loss, [encoded.features, *text.values()], create_graph=True)
    at_text = dict(zip(text, at_text, strict=True))
    direction = at_end.scaled(down)
    image_derivatives = encoded.derivatives_along(at_features.detach(), direction.image, with_weights=run.exact)
    slope = (at_features * image_derivatives.feature_changes).sum() + inner(at_text, direction.text)
    other_tensors = {f"similarity.{name}": factor for name, factor in factors.items()}
    other_tensors |= {f"loss.{name}": parameter for name, parameter in parameters.items()}
    inputs = [encoded.features, texts, *other_tensors.values(), *(text.values() if run.exact else [])]
    through_features, at_texts, *other_gradients = torch.autograd.grad(slope, inputs, materialize_grads=True)
    at_pixels, at_weights = encoded.backpropagate(through_features, with_weights=run.exact)
    gradient = Networks(image_derivatives.gradient, {name: part.detach() for name, part in at_text.items()})
    return _StepGradient(
        gradient,
        image_derivatives.at_pixels + at_pixels,
        at_texts,
        dict(zip(other_tensors, other_gradients, strict=False)),
        -torch.stack(
            [inner(side_gradient, side_at_end) for side_gradient, side_at_end in zip(gradient, at_end, strict=True)]
        ),
        Networks(
            moved(image_derivatives.at_weights, at_weights, 1.0) if run.exact else {},
            dict(zip(text, other_gradients[len(other_tensors) :], strict=False)),
        ),
    )


def _differentiate_matching(
    run: StudentRun, start: Networks, end: Networks, target: Networks
) -> tuple[Number, Mapping[str, Number], Networks]:
    """Return the matching loss, its fractions, and λ, its gradient at the student's end."""
    end = Networks(leaves(end.image), leaves(end.text))
    end_distances, start_distances = (
        {side: squared_distance(getattr(networks, side), getattr(target, side)) for side in run.matched}
        for networks in (end, start)
    )
    require_moved(start_distances.values())
    loss = matching_loss(end_distances, start_distances, merged=run.merged)
    fractions = {f"loss/{side}": end_distances[side].detach() / start_distances[side] for side in run.matched}
    end_weights = [*end.image.values(), *end.text.values()]
    gradients = torch.autograd.grad(loss, end_weights, materialize_grads=True)
    image, text = gradients[: len(end.image)], gradients[len(end.image) :]
    at_end = Networks(dict(zip(end.image, image, strict=True)), dict(zip(end.text, text, strict=True)))
    return loss.detach(), fractions, at_end


class _GradientSum:
    """The gradient at the pairs, summed over the student's steps."""

    def __init__(self, pairs: LearnedPairs) -> None:
        self.gradients = {name: torch.zeros_like(value) for name, value in pairs.tensors.items()}

    def add(self, index: Int[Tensor, "B"], step_part: _StepGradient) -> None:
        """Add a step's part, at the pairs of its minibatch."""
        self.gradients["image"].index_add_(0, index, step_part.at_pixels)
        self.gradients["text"].index_add_(0, index, step_part.at_texts)
        self.gradients["rates"] += step_part.at_rates
        for name, part in step_part.at_others.items():
            self.gradients[name] += part
