"""The matching loss for a student that trains the whole image encoder, by plain unrolling: a reference and a baseline.

The graph of every student step is kept, so memory grows with the number of steps.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from raydd.distill.encoder_passes import TrainedEncoder
from raydd.distill.encoder_student import Networks
from raydd.distill.heads import Head, embed, to_sphere
from raydd.distill.matching import LearnedPairs, StudentRun


def unrolled_loss(
    encoder: TrainedEncoder,
    run: StudentRun,
    start: Networks,
    target: Networks,
    pairs: LearnedPairs,
    fixed_weights: list[Networks] | None = None,
) -> Float[Tensor, ""]:
    """Return the matching loss with its graph through all student steps.

    Args:
        encoder: the image encoder.
        run: how the student trains.
        start: the expert's snapshot that the student starts from.
        target: the expert's later snapshot, which the student should reach.
        pairs: the synthetic pairs; gradients are computed for them.
        fixed_weights: constant weights at which each step's gradient is computed, instead of the student's own weights.
            With them the gradient of this loss is TESLA's. If the list is empty, it is filled with the student's
            weights.
    """
    weights = Networks(*({name: part.detach().requires_grad_() for name, part in side.items()} for side in start))
    gradient_weights, has_fixed_weights = weights, bool(fixed_weights)
    for step, index in enumerate(run.plan.minibatches):
        if fixed_weights is not None:
            if not has_fixed_weights:
                fixed_weights.append(
                    Networks(*({name: part.detach() for name, part in side.items()} for side in weights))
                )
            gradient_weights = Networks(
                *({name: part.clone().requires_grad_() for name, part in side.items()} for side in fixed_weights[step])
            )
        gradients = torch.autograd.grad(
            _student_loss(encoder, run, step, index, gradient_weights, pairs),
            [*gradient_weights.image.values(), *gradient_weights.text.values()],
            create_graph=True,
        )
        weights_and_gradients = zip([*weights.image.items(), *weights.text.items()], gradients, strict=True)
        parts = [
            (name, part - pairs.rates[int(number >= len(weights.image))] * gradient)
            for number, ((name, part), gradient) in enumerate(weights_and_gradients)
        ]
        weights = Networks(dict(parts[: len(weights.image)]), dict(parts[len(weights.image) :]))
        gradient_weights = weights
    end_distances, start_distances = (
        [
            sum((part - goal[name]).square().sum() for name, part in side.items())
            for side, goal in zip(networks, target, strict=True)
        ]
        for networks in (weights, start)
    )
    matched = [number for number, side in enumerate(("image", "text")) if side in run.matched]
    if run.merged:
        return torch.as_tensor(
            sum(end_distances[number] for number in matched) / sum(start_distances[number] for number in matched)
        )
    return torch.as_tensor(sum(end_distances[number] / start_distances[number] for number in matched))


def _student_loss(
    encoder: TrainedEncoder, run: StudentRun, step: int, index: Tensor, weights: Networks, pairs: LearnedPairs
) -> Float[Tensor, ""]:
    """Return the loss of a student step."""
    features = functional_call(encoder.module, weights.image, (pairs.images[index],))
    texts, ratio, partner = pairs.texts[index], run.plan.ratios[step], run.plan.permutations[step]
    if run.plan.sides != "text":
        features = (1 - ratio) * features + ratio * features[partner]
    if run.plan.sides != "image":
        texts = (1 - ratio) * texts + ratio * texts[partner]
    logits = to_sphere(features) @ embed(Head(**weights.text), texts).T / run.temperature
    return run.loss(logits, pairs.similarity.minibatch(index), pairs.loss)
