"""The gradient of the matching loss through students that train both projection heads on image and text features."""

from functools import partial

import torch

from raydd.distill.experts import Heads
from raydd.distill.heads import Head
from raydd.distill.matching import LearnedPairs, Matching, StudentRun, matching_loss
from raydd.distill.student import WalkingHead, walk


def heads_gradient(run: StudentRun, start: Heads, target: Heads, pairs: LearnedPairs) -> Matching:
    """The matching loss of a student that starts at `start`, with `target` as its target, and the loss's gradient.

    Args:
        run: the student's plan, loss and temperature, and what of it is matched.
        start: the expert's snapshot that the student starts from.
        target: the expert's later snapshot.
        pairs: the synthetic pairs, `images` being features; a gradient is taken at each tensor that requires one.

    Raises:
        NonFiniteError: start and target are equal.
    """
    image_start, text_start, image_target, text_target = (_on(head, pairs.device) for head in (*start, *target))
    image = WalkingHead(image_start, pairs.images, pairs.rates[0], through_steps=run.exact)
    text = WalkingHead(text_start, pairs.texts, pairs.rates[1], through_steps=run.exact)
    loss_of = partial(run.loss, parameters=pairs.loss)
    losses = walk(image, text, run.plan, pairs.similarity.minibatch, loss_of, run.temperature)
    students, targets = {"image": image, "text": text}, {"image": image_target, "text": text_target}
    loss, fractions = matching_loss({side: students[side] for side in run.matched}, targets, merged=run.merged)
    at = {name: tensor for name, tensor in pairs.tensors.items() if tensor.requires_grad}
    found = torch.autograd.grad(loss, list(at.values()), allow_unused=True)
    gradients = {name: gradient for name, gradient in zip(at, found, strict=True) if gradient is not None}
    return Matching(float(loss.detach()), fractions, [float(value.detach()) for value in losses], gradients)


def _on(head: Head, device: str) -> Head:
    return Head(*(part.to(device) for part in head))
