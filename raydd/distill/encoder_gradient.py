"""The gradient of the matching loss through students whose whole image encoder is trained, in constant memory.

The student is walked without a graph; then each step is looked at once more, alone, and its gradient g differentiated
along a direction v (one double backward). With λ = ∂L/∂θ_T at the student's end, a step's part of the gradient at the
synthetic pairs is ∂<g, v>, v = -η λ:

- constant memory (TESLA, which stops the gradient at the start of every step): λ stays; the steps are walked again from
  the start, so nothing is kept between them, and memory does not depend on their number.
- exact (MTT, unrolled): backwards, λ becoming λ + ∂<g, v>/∂θ, the adjoint of the walk. The steps' weights θ_k are kept
  on the CPU and nothing else, where unrolling keeps every step's graph.

Letters: N synthetic pairs, B minibatch, T student steps, θ the trained weights, η the student's rates.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.encoder_passes import SeenImages, TrainedEncoder
from raydd.distill.encoder_student import Networks, StudentStep
from raydd.distill.losses import Loss
from raydd.distill.matching import matching_loss
from raydd.distill.similarity import Similarity
from raydd.distill.student import StudentPlan
from raydd.distill.weights import Weights, inner, leaves, moved, squared_distance


@dataclass(frozen=True)
class LearnedPairs:
    """The synthetic pairs as a student sees them."""

    pixels: Float[Tensor, "N 3 S S"]
    """In 0 to 1."""
    texts: Float[Tensor, "N e"]
    similarity: Similarity
    rates: Float[Tensor, "2"]
    """η of the image encoder and of the text head."""

    @property
    def device(self) -> str:
        """Where they are."""
        return str(self.pixels.device)

    @property
    def down(self) -> tuple[float, float]:
        """-η of both sides: what a student's step multiplies its gradient with."""
        image, text = self.rates.tolist()
        return -image, -text


@dataclass(frozen=True)
class Matching:
    """A step's matching loss and its gradient."""

    loss: float
    fractions: dict[str, float]
    """Each matched side's own part of the loss, as `loss/image` and `loss/text`."""
    student_losses: list[float]
    """The student's loss before each of its steps."""
    gradients: dict[str, Tensor]
    """At `image` [N 3 S S], `text` [N e], `rates` [2], and `similarity.FACTOR` of each factor."""


@dataclass(frozen=True)
class Walk:
    """How students walk: everything but the pairs and where the walk starts."""

    encoder: TrainedEncoder
    plan: StudentPlan
    loss: Loss
    temperature: float
    exact: bool
    """The gradient through all steps, in place of TESLA's."""
    matched: tuple[str, ...] = ("image", "text")
    """Whose weights are matched."""
    merged: bool = False
    """One fraction over both sides' distances."""

    @property
    def steps(self) -> int:
        """Student steps T."""
        return len(self.plan.minibatches)

    def student_step(self, number: int) -> StudentStep:
        """What a step does after the encoder."""
        plan = self.plan
        ratios = (
            0.0 if plan.sides == "text" else plan.ratios[number],
            0.0 if plan.sides == "image" else plan.ratios[number],
        )
        return StudentStep(self.loss, self.temperature, plan.permutations[number], ratios)


def matching_gradient(walk: Walk, start: Networks, target: Networks, pairs: LearnedPairs) -> Matching:
    """The matching loss of a student that walks from `start` towards `target`, and its gradient at the pairs.

    Raises:
        NonFiniteError: start and target are equal.
    """
    here, losses, kept = start, [], []
    for step in range(walk.steps):
        if walk.exact:
            kept.append(here.to("cpu"))
        loss, gradient = _student_gradient(walk, step, here, pairs)
        losses.append(float(loss))
        here = here.moved(gradient, pairs.down)
    matched, fractions, at_end = _matched(walk, start, here, target)
    total = _Total(pairs)
    if walk.exact:
        for step in reversed(range(walk.steps)):
            found = _looked_at_again(walk, step, kept.pop().to(pairs.device), pairs, at_end)
            total.add(walk.plan.minibatches[step], found)
            at_end = at_end.moved(found.at_start, (1.0, 1.0))
    else:
        here = start
        for step in range(walk.steps):
            found = _looked_at_again(walk, step, here, pairs, at_end)
            total.add(walk.plan.minibatches[step], found)
            here = here.moved(found.gradient, pairs.down)
    return Matching(matched, fractions, losses, total.gradients)


@dataclass(frozen=True)
class _Step:
    """What one student step adds to the gradient, η and λ being those of `matching_gradient`'s module."""

    gradient: Networks
    """g, which the step goes down."""
    at_pixels: Float[Tensor, "B 3 S S"]
    at_texts: Float[Tensor, "B e"]
    at_factors: dict[str, Tensor]
    at_rates: Float[Tensor, "2"]
    at_start: Networks
    """∂<g, v>/∂θ, what λ gains; of no weights unless the gradient is exact."""


def _student_gradient(
    walk: Walk, step: int, networks: Networks, pairs: LearnedPairs
) -> tuple[Float[Tensor, ""], Networks]:
    """The student's loss and its gradient g, without a graph."""
    index = walk.plan.minibatches[step]
    seen, text = SeenImages(walk.encoder, networks.image, pairs.pixels[index]), leaves(networks.text)
    loss = walk.student_step(step)(seen.features, text, pairs.texts[index], pairs.similarity.minibatch(index))
    at_features, *at_text = torch.autograd.grad(loss, [seen.features, *text.values()])
    return loss.detach(), Networks(seen.gradient(at_features), dict(zip(text, at_text, strict=True)))


def _looked_at_again(walk: Walk, step: int, networks: Networks, pairs: LearnedPairs, at_end: Networks) -> _Step:
    """One student step's part of the gradient: g, and the derivatives of <g, v> for v = -η λ."""
    index = walk.plan.minibatches[step]
    seen, text = SeenImages(walk.encoder, networks.image, pairs.pixels[index]), leaves(networks.text)
    texts, factors = pairs.texts[index].requires_grad_(), leaves(pairs.similarity.factors)
    similarity = pairs.similarity.with_factors(factors).minibatch(index)
    loss = walk.student_step(step)(seen.features, text, texts, similarity)
    at_features, *at_text = torch.autograd.grad(loss, [seen.features, *text.values()], create_graph=True)
    at_text = dict(zip(text, at_text, strict=True))
    direction = at_end.scaled(pairs.down)
    image = seen.along(at_features.detach(), direction.image, with_weights=walk.exact)
    slope = (at_features * image.moved).sum() + inner(at_text, direction.text)
    at = [seen.features, texts, *factors.values(), *(text.values() if walk.exact else [])]
    through_features, at_texts, *rest = torch.autograd.grad(slope, at, materialize_grads=True)
    at_pixels, at_weights = seen.back(through_features, with_weights=walk.exact)
    gradient = Networks(image.gradient, {name: part.detach() for name, part in at_text.items()})
    return _Step(
        gradient,
        image.at_pixels + at_pixels,
        at_texts,
        dict(zip(factors, rest, strict=False)),
        -torch.stack([inner(ours, theirs) for ours, theirs in zip(gradient, at_end, strict=True)]),
        Networks(
            moved(image.at_weights, at_weights, 1.0) if walk.exact else {},
            dict(zip(text, rest[len(factors) :], strict=False)),
        ),
    )


@dataclass(frozen=True)
class _Ended:
    """One side's walk from its start to its end."""

    start: Weights
    end: Weights

    def distance(self, target: Weights) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """|θ_T - θ*|² and |θ_0 - θ*|²."""
        return squared_distance(self.end, target), squared_distance(self.start, target)


def _matched(walk: Walk, start: Networks, end: Networks, target: Networks) -> tuple[float, dict[str, float], Networks]:
    """The matching loss, its fractions, and λ, its gradient at the student's end."""
    end = Networks(leaves(end.image), leaves(end.text))
    ended = {"image": _Ended(start.image, end.image), "text": _Ended(start.text, end.text)}
    loss, fractions = matching_loss({side: ended[side] for side in walk.matched}, target._asdict(), merged=walk.merged)
    at = [*end.image.values(), *end.text.values()]
    found = torch.autograd.grad(loss, at, materialize_grads=True)
    image, text = found[: len(end.image)], found[len(end.image) :]
    at_end = Networks(dict(zip(end.image, image, strict=True)), dict(zip(end.text, text, strict=True)))
    return float(loss.detach()), fractions, at_end


class _Total:
    """The gradient at the pairs, step by step summed."""

    def __init__(self, pairs: LearnedPairs) -> None:
        factors = {f"similarity.{name}": factor for name, factor in pairs.similarity.factors.items()}
        variables = {"image": pairs.pixels, "text": pairs.texts, "rates": pairs.rates, **factors}
        self.gradients = {name: torch.zeros_like(value) for name, value in variables.items()}

    def add(self, index: Int[Tensor, "B"], found: _Step) -> None:
        """Add a step's part, of the pairs that it saw."""
        self.gradients["image"].index_add_(0, index, found.at_pixels)
        self.gradients["text"].index_add_(0, index, found.at_texts)
        self.gradients["rates"] += found.at_rates
        for name, part in found.at_factors.items():
            self.gradients[f"similarity.{name}"] += part
