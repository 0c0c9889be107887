"""A matching step on a student whose whole image encoder is trained, unrolled as it is written down: oracle, baseline.

Every student step's graph is kept, so memory grows with their number.
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
    stops: list[Networks] | None = None,
) -> Float[Tensor, ""]:
    """The matching loss with its graph through all student steps.

    Args:
        encoder: the image encoder.
        run: how the student trains.
        start: the expert's snapshot that it starts from.
        target: the expert's later snapshot.
        pairs: the synthetic pairs, which gradients are taken at.
        stops: constants to take each step's gradient at, in place of the student's own weights (TESLA's gradient is
            this loss's); filled with them if empty.
    """
    here = Networks(*({name: part.detach().requires_grad_() for name, part in side.items()} for side in start))
    at, filled = here, bool(stops)
    for step, index in enumerate(run.plan.minibatches):
        if stops is not None:
            if not filled:
                stops.append(Networks(*({name: part.detach() for name, part in side.items()} for side in here)))
            at = Networks(
                *({name: part.clone().requires_grad_() for name, part in side.items()} for side in stops[step])
            )
        gradients = torch.autograd.grad(
            _student_loss(encoder, run, step, index, at, pairs),
            [*at.image.values(), *at.text.values()],
            create_graph=True,
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
    chosen = [number for number, side in enumerate(("image", "text")) if side in run.matched]
    if run.merged:
        return torch.as_tensor(sum(ends[number] for number in chosen) / sum(begins[number] for number in chosen))
    return torch.as_tensor(sum(ends[number] / begins[number] for number in chosen))


def _student_loss(
    encoder: TrainedEncoder, run: StudentRun, step: int, index: Tensor, at: Networks, pairs: LearnedPairs
) -> Float[Tensor, ""]:
    """The loss of a student step."""
    features = functional_call(encoder.module, at.image, (pairs.images[index],))
    texts, ratio, partner = pairs.texts[index], run.plan.ratios[step], run.plan.permutations[step]
    if run.plan.sides != "text":
        features = (1 - ratio) * features + ratio * features[partner]
    if run.plan.sides != "image":
        texts = (1 - ratio) * texts + ratio * texts[partner]
    logits = to_sphere(features) @ embed(Head(**at.text), texts).T / run.temperature
    return run.loss(logits, pairs.similarity.minibatch(index), pairs.loss)
