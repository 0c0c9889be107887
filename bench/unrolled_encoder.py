"""A matching step on a student whose whole image encoder is trained, unrolled as it is written down: oracle, baseline.

Every student step's graph is kept, so memory grows with their number.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from raydd.distill.encoder_gradient import LearnedPairs, Walk
from raydd.distill.encoder_student import Networks
from raydd.distill.heads import Head, embed, to_sphere


def unrolled_loss(
    walk: Walk, start: Networks, target: Networks, pairs: LearnedPairs, stops: list[Networks] | None = None
) -> Float[Tensor, ""]:
    """The matching loss with its graph through all student steps.

    Args:
        walk: how the student walks.
        start: the expert's snapshot that it starts from.
        target: the expert's later snapshot.
        pairs: the synthetic pairs, which gradients are taken at.
        stops: constants to take each step's gradient at, in place of where the walk has come to (TESLA's gradient is
            this loss's); filled with them if empty.
    """
    here = Networks(*({name: part.detach().requires_grad_() for name, part in side.items()} for side in start))
    at, filled = here, bool(stops)
    for step, index in enumerate(walk.plan.minibatches):
        if stops is not None:
            if not filled:
                stops.append(Networks(*({name: part.detach() for name, part in side.items()} for side in here)))
            at = Networks(
                *({name: part.clone().requires_grad_() for name, part in side.items()} for side in stops[step])
            )
        gradients = torch.autograd.grad(
            _student_loss(walk, step, index, at, pairs), [*at.image.values(), *at.text.values()], create_graph=True
        )
        moved = zip([*here.image.items(), *here.text.items()], gradients, strict=True)
        parts = [
            (name, part - pairs.rates[int(number >= len(here.image))] * gradient)
            for number, ((name, part), gradient) in enumerate(moved)
        ]
        here = Networks(dict(parts[: len(here.image)]), dict(parts[len(here.image) :]))
        at = here
    ends, begins = (
        [
            sum((part - goal[name]).square().sum() for name, part in side.items())
            for side, goal in zip(of, target, strict=True)
        ]
        for of in (here, start)
    )
    chosen = [number for number, side in enumerate(("image", "text")) if side in walk.matched]
    if walk.merged:
        return torch.as_tensor(sum(ends[number] for number in chosen) / sum(begins[number] for number in chosen))
    return torch.as_tensor(sum(ends[number] / begins[number] for number in chosen))


def _student_loss(walk: Walk, step: int, index: Tensor, at: Networks, pairs: LearnedPairs) -> Float[Tensor, ""]:
    """The loss of a student step."""
    features = functional_call(walk.encoder.module, at.image, (pairs.pixels[index],))
    texts, ratio, partner = pairs.texts[index], walk.plan.ratios[step], walk.plan.permutations[step]
    if walk.plan.sides != "text":
        features = (1 - ratio) * features + ratio * features[partner]
    if walk.plan.sides != "image":
        texts = (1 - ratio) * texts + ratio * texts[partner]
    logits = to_sphere(features) @ embed(Head(**at.text), texts).T / walk.temperature
    return walk.loss(logits, pairs.similarity.minibatch(index))
