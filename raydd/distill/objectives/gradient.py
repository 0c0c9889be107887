"""Gradient matching (LGM): at fresh random heads, synthetic pairs should give the same gradient as real pairs.

    L = sum over both heads of 1 - cos(grad of the loss of real pairs, grad of the loss of the synthetic pairs),

where the gradients are those of a student's first step: of InfoNCE for a minibatch of real pairs, and of the students'
loss for the synthetic pairs. No expert is read, and no student is trained.

Letters: B real pairs in a minibatch, d and e widths of the image and the text encoder, P head parameters (flat).
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from raydd.device import sent
from raydd.distill.draws import step_seed
from raydd.distill.experts import Experts, Heads, contrastive_loss
from raydd.distill.heads import Head, embed, initial_head, on
from raydd.distill.matching import LearnedPairs, StepLoss
from raydd.distill.objectives.objective import AllPairsObjective, LossOfPairs, ObjectiveInputs

_FIRST_FRESH_SEED = 2**40  # first seed of the heads that steps draw; no expert and no student has such a seed


class GradientMatching(AllPairsObjective):
    """The angle between the gradients of real and synthetic pairs at fresh heads."""

    def __init__(self, inputs: ObjectiveInputs) -> None:
        super().__init__(inputs)
        assert isinstance(inputs.experts, Experts)  # the only ones whose features are cached
        self._experts, self._temperature, self._loss = inputs.experts, inputs.temperature, inputs.loss

    def draw(self, step: int) -> LossOfPairs:
        """Return the loss at the step's random heads, on the step's minibatch of real pairs."""
        seed = step_seed(self.config, step)
        image, text = self._draw_heads(Generator(self.device).manual_seed(_FIRST_FRESH_SEED + seed))
        rows = self.real.minibatch(self.config.real_minibatch, Generator().manual_seed(seed))
        images, texts = (sent(side, self.device) for side in rows)
        real_gradients = self._gradients((image, text), images, texts, contrastive_loss)
        return partial(self._step_loss, (image, text), [gradient.detach() for gradient in real_gradients])

    def _draw_heads(self, generator: Generator) -> Heads:
        """Draw heads of the experts' shape on the generator's device, as leaf tensors."""
        image, text = (
            Head(*(part.requires_grad_() for part in initial_head(width, self._experts.width, generator)))
            for width in (self._experts.image_width, self._experts.text_width)
        )
        return image, text

    def _step_loss(self, heads: Heads, real_gradients: list[Tensor], pairs: LearnedPairs) -> StepLoss:
        similarity = pairs.similarity.matrix(pairs.device).to(pairs.images)
        gradients = self._gradients(
            (on(heads[0], pairs.images), on(heads[1], pairs.texts)),
            pairs.images,
            pairs.texts,
            lambda logits: self._loss(logits, similarity, pairs.loss),
            differentiable=True,
        )
        image, text = (
            1 - cosine(gradient, target.to(gradient))
            for gradient, target in zip(gradients, real_gradients, strict=True)
        )
        return StepLoss.of(image + text, pairs, {"image": image, "text": text})

    def _gradients(
        self,
        heads: Heads,
        images: Float[Tensor, "B d"],
        texts: Float[Tensor, "B e"],
        loss: Callable[[Float[Tensor, "B B"]], Float[Tensor, ""]],
        *,
        differentiable: bool = False,
    ) -> tuple[Float[Tensor, "P"], Float[Tensor, "Q"]]:
        """Return the loss's gradient at each head's parameters."""
        logits = embed(heads[0], images) @ embed(heads[1], texts).T / self._temperature
        gradients = torch.autograd.grad(loss(logits), (*heads[0], *heads[1]), create_graph=differentiable)
        middle = len(heads[0])
        image, text = (
            torch.cat([part.flatten() for part in side]) for side in (gradients[:middle], gradients[middle:])
        )
        return image, text


def cosine(first: Float[Tensor, "P"], second: Float[Tensor, "P"]) -> Float[Tensor, ""]:
    """Return the cosine of two vectors."""
    return (first @ second) / (first.norm() * second.norm())
