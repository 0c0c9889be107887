"""The distillation loop: match what students learn from synthetic pairs to what experts learnt from all real ones.

A distillation step (RepBlend's; the other methods are switches of it):
1. take an expert at a start epoch, and its later snapshot as the target;
2. let a student walk T steps from the start on blended minibatches of the synthetic pairs;
3. move the synthetic pairs, their similarity and the student's rates down the gradient of the matching loss.

Letters: N synthetic pairs, d and e the widths of the image and the text encoder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.config import DistillConfig
from raydd.distill.draws import StepDraws, draw_step
from raydd.distill.encoding import Encode, EncodedPixels
from raydd.distill.experts import Experts
from raydd.distill.heads import Head
from raydd.distill.learned import LearnedSet, unit_pixels
from raydd.distill.losses import LOSSES
from raydd.distill.matching import matching_loss
from raydd.distill.student import WalkingHead, walk
from raydd.distill.synthetic import SyntheticSet


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of each real feature: the units of the synthetic ones, and the law of noise."""

    image: Float[Tensor, "2 d"]
    text: Float[Tensor, "2 e"]
    image_range: Float[Tensor, "2 d"]
    """Least and greatest value of each image feature, towards which learned ones are pulled back."""


@dataclass(frozen=True)
class PixelSpace:
    """What a distillation on pixels needs beside the features' one."""

    encode: Encode
    """The frozen image encoder, from pixels in 0 to 1."""
    unit: Float[Tensor, "3 1 1"]
    """The encoder's own normalising deviation: pixels are learned in this unit, as published."""
    batch: int
    """The most images whose graph fits in memory."""


class Distillation(LearnedSet):
    """A distillation in progress: its variables, its optimiser, and the number of steps done."""

    def __init__(
        self,
        start: SyntheticSet,
        experts: Experts,
        config: DistillConfig,
        *,
        temperature: float,
        spread: Spread,
        pixel_space: PixelSpace | None = None,
        device: str = "cpu",
    ) -> None:
        """Put the variables at the start set.

        Args:
            start: real pairs to start from, or a set to go on from.
            experts: the trajectories to match.
            config: the distillation's settings.
            temperature: tau of the students.
            spread: units of the synthetic features under Adam.
            pixel_space: learn `start.pixels` in place of image features.
            device: where to compute.
        """
        adam = config.optimizer == "adam"
        if pixel_space is None:
            image, image_unit = start.image_features, spread.image[1] if adam else torch.ones_like(spread.image[1])
        else:
            image, image_unit = unit_pixels(start), pixel_space.unit
        super().__init__(
            start,
            config,
            image=image,
            image_unit=image_unit,
            text_unit=spread.text[1] if adam else torch.ones_like(spread.text[1]),
            block=pixel_space is None,
            device=device,
        )
        self.experts, self._temperature, self._spread, self._pixels = experts, temperature, spread, pixel_space
        self._encoded: EncodedPixels | None = None  # the pixels' features, until the pixels move
        self._owed: Tensor | None = None  # the features' gradient since then

    def step(self) -> dict[str, float]:
        """Take one distillation step; gives the losses, the gradients' norms and the rates.

        Raises:
            NonFiniteError: the loss or a gradient is NaN or infinite, or the loss diverged; the variables stay.
        """
        draws = self._draws(self.done)
        start = self.experts.snapshot(draws.expert, draws.start_epoch)
        target = self.experts.snapshot(draws.expert, draws.start_epoch + self.config.target_epochs)
        if self._pixels is not None and self._encoded is None:
            self._encoded = EncodedPixels(self._pixels.encode, self._image(), self._pixels.batch, self._used())
        image_features = self._image() if self._encoded is None else self._encoded.features
        rates, through = self._rates(), self.config.gradient == "exact"
        image = WalkingHead(_on(start[0], self.device), image_features, rates[0], through_steps=through)
        text = WalkingHead(_on(start[1], self.device), self._text(), rates[1], through_steps=through)
        plan, similarity = draws.plan.to(self.device), self._similarity()
        student_losses = walk(image, text, plan, similarity.minibatch, LOSSES[self.config.loss], self._temperature)
        walks = {"image": image, "text": text} if self.config.matched == "both-heads" else {"text": text}
        targets = {"image": _on(target[0], self.device), "text": _on(target[1], self.device)}
        loss, fractions = matching_loss(walks, targets, merged=self.config.merged)
        norms = self._differentiate(loss)
        told = [float(value.detach()) for value in student_losses]
        metrics = self._metrics(float(loss.detach()), fractions, told, norms)
        self._require_finite(metrics)
        last = self._last_of_encoding
        self._move()
        if last:
            self._encoded, self._owed = None, None
        return metrics

    def state(self) -> dict[str, Tensor]:
        """Everything that `resume` needs to go on bit for bit: variables, moments, and the number of steps done."""
        return super().state() | ({} if self._owed is None else {"owed": self._owed.cpu()})

    def resume(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave.

        Raises:
            RecordError: the state belongs to other settings.
        """
        super().resume(state)
        self._encoded, self._owed = None, state["owed"].to(self.device) if "owed" in state else None

    def _synthetic_image(self) -> tuple[Tensor | None, Tensor]:
        """8-bit pixels, if there are any, and the features: of these pixels, or learned, or those of the start."""
        if not self.variables["image"].requires_grad:
            return self._start.pixels, self._start.image_features
        if self._pixels is None:
            return None, self._image()
        pixels = self._eight_bit()
        parts = (pixels.float() / 255).split(self._pixels.batch)
        return pixels.cpu(), torch.cat([self._pixels.encode(part) for part in parts])

    def _draws(self, step: int) -> StepDraws:
        return draw_step(self.config, step, self.experts.count, (self._spread.image, self._spread.text))

    def _used(self) -> Int[Tensor, "U"]:
        """The pairs that the distillation steps of this encoding use."""
        first = self.done - self.done % self.config.steps_per_encoding
        steps = range(first, first + self.config.steps_per_encoding)
        return torch.cat([self._draws(step).plan.minibatches.flatten() for step in steps]).unique()

    def _differentiate(self, loss: Tensor) -> dict[str, float]:
        """Put the loss's gradient at every variable that is learned; gives the norms.

        Pixels get theirs at the last step of an encoding, for the sum of the steps' gradients at the features.
        """
        learned = {name: value for name, value in self.variables.items() if value.requires_grad}
        at, encoded = dict(learned), self._encoded
        if encoded is not None and "image" in at:
            at["image"] = encoded.features
        gradients: dict[str, Tensor | None] = dict(
            zip(at, torch.autograd.grad(loss, list(at.values()), allow_unused=True), strict=True)
        )
        norms = {name: float(gradient.norm()) for name, gradient in gradients.items() if gradient is not None}
        at_features = gradients.get("image")
        if encoded is not None and at_features is not None:
            self._owed = at_features if self._owed is None else self._owed + at_features
            gradients["image"] = None
            if self._last_of_encoding:
                gradients["image"] = encoded.gradient(self._owed) * self._units["image"]
        for name, value in learned.items():
            value.grad = gradients[name]
        return norms

    @property
    def _last_of_encoding(self) -> bool:
        """Whether the pixels move after this step."""
        return (self.done + 1) % self.config.steps_per_encoding == 0 or self.done + 1 == self.config.steps

    def _bound_image(self) -> None:
        """Keep pixels in 0 to 1, and pull features back towards the range of real ones."""
        if self._pixels is not None:
            self._bound_pixels()
        elif (pull := self.config.range_pull) and self.variables["image"].requires_grad:
            low, high = self._spread.image_range.to(self.device)
            image, unit = self.variables["image"], self._units["image"]
            image.lerp_(image.clamp(low / unit, high / unit), pull)


@dataclass(frozen=True)
class DistillPoint:
    """A distillation after some steps."""

    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    metrics: dict[str, float]
    """Losses, gradient norms and rates of the last step; means over the steps since the point before."""
    synthetic: SyntheticSet
    collapse: Sequence[Mapping[str, float]] = ()
    """Collapse measures since the point before, where somebody takes them, and the `step` of each."""


def distill(distillation: Distillation, every: int) -> Iterator[DistillPoint]:
    """Run a distillation to its end; yields after every so many steps, and after the last."""
    steps, seen = distillation.config.steps, []
    while distillation.done < steps:
        seen.append(distillation.step())
        if distillation.done % every == 0 or distillation.done == steps:
            means = {name: sum(metrics[name] for metrics in seen) / len(seen) for name in seen[0]}
            yield DistillPoint(distillation.done, steps, means, distillation.synthetic())
            seen = []


def _on(head: Head, device: str) -> Head:
    return Head(*(part.to(device) for part in head))
