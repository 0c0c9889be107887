"""Distribution matching (MDM): give the synthetic pairs the distribution of the real pairs, as a teacher embeds both.

Each step draws a teacher: an expert part of the way from its start to one of its epochs. With z_v and z_t the
embeddings of images and texts on the unit sphere,

    L = InfoNCE(z_v, z_t) + w MMD(norm(z_v + z_t)) + w MMD(norm(z_v - z_t)),

where MMD is the root of the maximum mean discrepancy between real and synthetic pairs under a Gaussian kernel. The loss
only needs forward passes of the teacher: no student is trained.

Letters: N synthetic pairs, B real ones in a minibatch, d and e widths of the encoders, D width of the shared space.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from raydd.device import sent
from raydd.distill.blending import draw_below
from raydd.distill.draws import step_seed
from raydd.distill.experts import Heads, contrastive_loss
from raydd.distill.heads import Head, embed, on, to_sphere
from raydd.distill.legs import Leg, Legs
from raydd.distill.matching import LearnedPairs, StepLoss
from raydd.distill.objectives.objective import AllPairsObjective, LossOfPairs, ObjectiveInputs

# As published.
TEACHER_POSITION = 0.5  # position of the teacher between the expert's start (0) and the drawn epoch (1)
WEIGHT = 0.8  # weight of each discrepancy
SIGMA = 0.5  # width of the Gaussian kernel
_SMALLEST_SQUARE = 1e-12  # lower bound of a squared discrepancy, whose root has no slope at zero


class DistributionMatching(AllPairsObjective):
    """Discrepancies of sums and differences of embeddings, and the contrastive loss of the synthetic pairs."""

    def __init__(self, inputs: ObjectiveInputs) -> None:
        super().__init__(inputs)
        self._experts, self._temperature = inputs.experts, inputs.temperature
        self._legs = Legs.on(inputs.device)

    def expert(self, step: int) -> int:
        """Return the expert that becomes the step's teacher."""
        return draw_below(self._experts.count, self._generator(step))

    def _generator(self, step: int) -> Generator:
        return Generator().manual_seed(step_seed(self.config, step))

    def draw(self, step: int) -> LossOfPairs:
        """Return the loss under the step's teacher, on the step's minibatch of real pairs."""
        config, generator = self.config, self._generator(step)
        expert, epoch = draw_below(self._experts.count, generator), 1 + draw_below(config.target_epochs, generator)
        image, text = teacher(self._legs.get(self._experts, expert, 0, (epoch, epoch)))
        images, texts = (sent(rows, self.device) for rows in self.real.minibatch(config.real_minibatch, generator))
        with torch.no_grad():
            real_embeddings = embed(image, images), embed(text, texts)
        return partial(self._step_loss, (image, text), real_embeddings)

    def _step_loss(self, heads: Heads, real: tuple[Tensor, Tensor], pairs: LearnedPairs) -> StepLoss:
        image, text = embed(on(heads[0], pairs.images), pairs.images), embed(on(heads[1], pairs.texts), pairs.texts)
        real = real[0].to(image), real[1].to(text)
        contrast = contrastive_loss(image @ text.T / self._temperature)
        agreement = discrepancy(to_sphere(image + text), to_sphere(real[0] + real[1]))
        difference = discrepancy(to_sphere(image - text), to_sphere(real[0] - real[1]))
        parts = {"contrast": contrast, "sum": agreement, "difference": difference}
        return StepLoss.of(contrast + WEIGHT * (agreement + difference), pairs, parts)


def teacher(leg: Leg) -> Heads:
    """Return both heads of the expert at `TEACHER_POSITION` of the way from the leg's start to its target."""
    image, text = (
        Head(*(part - TEACHER_POSITION * delta for part, delta in zip(*sides, strict=True)))
        for sides in zip(leg.start, leg.delta, strict=True)
    )
    return image, text


def discrepancy(learned: Float[Tensor, "N D"], real: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Return the root of the (biased) maximum mean discrepancy of two sets of rows.

    The kernel is exp(-|u - v|^2 / 2s^2), with s = `SIGMA`.
    """

    def mean_kernel(first: Tensor, second: Tensor) -> Tensor:
        squared = first.square().sum(1)[:, None] + second.square().sum(1) - 2 * first @ second.T
        return (-squared.clamp_min(0) / (2 * SIGMA**2)).exp().mean()

    squared = mean_kernel(learned, learned) + mean_kernel(real, real) - 2 * mean_kernel(learned, real)
    return squared.clamp_min(_SMALLEST_SQUARE).sqrt()
