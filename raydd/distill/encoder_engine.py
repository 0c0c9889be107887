"""The distillation loop of protocol A: experts and students train the whole image encoder and the text head.

A distillation step is that of `raydd.distill.engine`; only its gradient is found in another way
(`raydd.distill.encoder_gradient`), and it always reaches the pixels.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.config import DistillConfig
from raydd.distill.draws import draw_step
from raydd.distill.encoder_experts import EncoderExperts
from raydd.distill.encoder_gradient import LearnedPairs, Matching, Walk, matching_gradient
from raydd.distill.encoder_passes import TrainedEncoder
from raydd.distill.learned import LearnedSet, unit_pixels
from raydd.distill.losses import LOSSES
from raydd.distill.synthetic import SyntheticSet

_SIDES = {"both-heads": ("image", "text"), "text-head": ("text",)}


class EncoderDistillation(LearnedSet):
    """A distillation in progress under protocol A."""

    def __init__(
        self,
        start: SyntheticSet,
        experts: EncoderExperts,
        config: DistillConfig,
        *,
        encoder: TrainedEncoder,
        temperature: float,
        pixel_unit: Float[Tensor, "3 1 1"],
        text_spread: Float[Tensor, "2 e"],
        device: str = "cpu",
    ) -> None:
        """Put the variables at the start set.

        Args:
            start: real pairs with their pixels.
            experts: the trajectories to match.
            config: the distillation's settings.
            encoder: the image encoder, on `device`.
            temperature: tau of the students.
            pixel_unit: the encoder's own normalising deviation, the unit of the learned pixels.
            text_spread: mean and standard deviation of real text features, whose unit the latter is under Adam.
            device: where to compute.
        """
        text_unit = text_spread[1] if config.optimizer == "adam" else torch.ones_like(text_spread[1])
        super().__init__(
            start,
            config,
            image=unit_pixels(start),
            image_unit=pixel_unit,
            text_unit=text_unit,
            block=False,
            device=device,
        )
        self.experts, self._encoder, self._temperature = experts, encoder, temperature

    def step(self) -> dict[str, float]:
        """Take one distillation step; gives the losses, the gradients' norms and the rates.

        Raises:
            NonFiniteError: the loss or a gradient is NaN or infinite, or the loss diverged; the variables stay.
        """
        matching = self._matching()
        chained = {
            "image": self._units["image"],
            "text": self._units["text"],
            "rates": self._rates().detach() if self.config.optimizer == "adam" else torch.ones(()),  # of a logarithm
        }
        for name, value in self.variables.items():
            gradient = matching.gradients[name]
            value.grad = gradient * chained[name].to(gradient) if name in chained else gradient
        norms = {name: float(gradient.norm()) for name, gradient in matching.gradients.items()}
        metrics = self._metrics(matching.loss, matching.fractions, matching.student_losses, norms)
        self._require_finite(metrics)
        self._move()
        return metrics

    def _matching(self) -> Matching:
        config = self.config
        draws = draw_step(config, self.done, self.experts.count, None)
        start, target = (
            self.experts.snapshot(draws.expert, epoch).to(self.device)
            for epoch in (draws.start_epoch, draws.start_epoch + config.target_epochs)
        )
        walk = Walk(
            self._encoder,
            draws.plan.to(self.device),
            LOSSES[config.loss],
            self._temperature,
            exact=config.gradient == "exact",
            matched=_SIDES[config.matched],
            merged=config.merged,
        )
        with torch.no_grad():
            pairs = LearnedPairs(self._image(), self._text(), self._similarity(), self._rates())
        return matching_gradient(walk, start, target, pairs)

    def _synthetic_image(self) -> tuple[Tensor | None, Tensor]:
        """8-bit pixels, and their features under the pretrained encoder."""
        pixels = self._eight_bit()
        parts = (pixels.float() / 255).split(self._encoder.at_once)
        return pixels.cpu(), torch.cat([self._encoder.module(part) for part in parts])

    def _bound_image(self) -> None:
        self._bound_pixels()
