"""The distillation loop: match what students learn from synthetic pairs to what experts learnt from all real ones.

A distillation step (RepBlend's; the other methods are switches of it):
1. take an expert at a start epoch, and its later snapshot as the target;
2. let a student walk T steps from the start on blended minibatches of the synthetic pairs;
3. move the synthetic pairs, their similarity and the student's rates down the gradient of the matching loss.

Letters: N synthetic pairs, d and e the widths of the image and the text encoder.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.config import DistillConfig
from raydd.distill.block_adam import BlockAdam
from raydd.distill.draws import StepDraws, draw_step
from raydd.distill.encoding import Encode, EncodedPixels
from raydd.distill.experts import Experts
from raydd.distill.heads import Head
from raydd.distill.losses import LOSSES
from raydd.distill.matching import matching_loss
from raydd.distill.student import WalkingHead, walk
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError, RecordError

DIVERGED = 1e3  # a matching loss this far above its start, near 1 a head, does not come back
SMALLEST_RATE = 1e-4  # keeps a learned rate positive under plain SGD


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


class Distillation:
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
        self.config, self.experts, self.device, self.done = config, experts, device, 0
        self._temperature, self._spread, self._pixels = temperature, spread, pixel_space
        self._start = start
        adam = config.optimizer == "adam"
        text_unit = spread.text[1] if adam else torch.ones_like(spread.text[1])
        if pixel_space is None:
            image, image_unit = start.image_features, spread.image[1] if adam else torch.ones_like(spread.image[1])
        else:
            if start.pixels is None:
                raise RecordError("A distillation on pixels needs pixels to start from.")
            image, image_unit = start.pixels.float() / 255, pixel_space.unit
        self._units = {"image": positive(image_unit).to(device), "text": positive(text_unit).to(device)}
        rates = torch.tensor([start.rate_image, start.rate_text])
        variables = {
            "image": image.to(device) / self._units["image"],
            "text": start.text_features.to(device) / self._units["text"],
            "rates": rates.log() if adam else rates,
            **{f"similarity.{name}": factor for name, factor in start.similarity.factors.items()},
        }
        self.variables = {name: value.float().to(device).clone() for name, value in variables.items()}
        for name, value in self.variables.items():
            value.requires_grad_(self._lr(name) > 0)
        groups = [
            {"params": [value], "lr": lr, "base": lr, "block": name == "image" and pixel_space is None}
            for name, value in self.variables.items()
            if (lr := self._lr(name)) > 0
        ]
        self._optimizer: torch.optim.Optimizer = (
            BlockAdam(groups, betas=(config.momentum, 0.999))
            if adam
            else torch.optim.SGD(groups, momentum=config.momentum)
        )
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
        metrics = {
            "loss": float(loss.detach()),
            **fractions,
            "student_loss/first": float(student_losses[0].detach()),
            "student_loss/last": float(student_losses[-1].detach()),
            **{f"gradient/{name}": norm for name, norm in norms.items()},
            "rate/image": float(rates[0].detach()),
            "rate/text": float(rates[1].detach()),
        }
        self._require_finite(metrics)
        self._move()
        return metrics

    def synthetic(self) -> SyntheticSet:
        """The set as it stands, on the CPU."""
        with torch.no_grad():
            pixels, image = self._synthetic_image()
            factors = {name: factor.detach().cpu().clone() for name, factor in self._similarity().factors.items()}
            rate_image, rate_text = self._rates().tolist()
            return replace(
                self._start,
                image_features=image.cpu().clone(),
                text_features=self._text().cpu().clone(),
                similarity=self._start.similarity.with_factors(factors),
                rate_image=rate_image,
                rate_text=rate_text,
                loss=self.config.loss,
                pixels=pixels,
            )

    def state(self) -> dict[str, Tensor]:
        """Everything that `resume` needs to go on bit for bit: variables, moments, and the number of steps done."""
        state = {f"variable.{name}": value.detach().cpu() for name, value in self.variables.items()}
        for name, value in self.variables.items():
            for key, moment in self._optimizer.state.get(value, {}).items():
                if isinstance(moment, Tensor):
                    state[f"moment.{key}.{name}"] = moment.detach().cpu()
        owed = {} if self._owed is None else {"owed": self._owed.cpu()}
        return state | owed | {"done": torch.tensor(self.done)}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave.

        Raises:
            RecordError: the state belongs to other settings.
        """
        with torch.no_grad():
            for name, value in self.variables.items():
                stored = state.get(f"variable.{name}")
                if stored is None or stored.shape != value.shape:
                    raise RecordError(
                        f"The checkpoint's {name} does not fit these settings. Delete it and start again."
                    )
                value.copy_(stored)
                moments = {
                    key.removeprefix("moment.").removesuffix(f".{name}"): moment.clone()
                    for key, moment in state.items()
                    if key.startswith("moment.") and key.removeprefix("moment.").partition(".")[2] == name
                }
                if moments:
                    self._optimizer.state[value] = {
                        key: moment if key == "step" else moment.to(self.device) for key, moment in moments.items()
                    }
        self._encoded, self._owed = None, state["owed"].to(self.device) if "owed" in state else None
        self.done = int(state["done"])

    def _synthetic_image(self) -> tuple[Tensor | None, Tensor]:
        """8-bit pixels, if there are any, and the features: of these pixels, or learned, or those of the start."""
        if not self.variables["image"].requires_grad:
            return self._start.pixels, self._start.image_features
        if self._pixels is None:
            return None, self._image()
        pixels = (self._image() * 255).round().clamp(0, 255).to(torch.uint8)
        parts = (pixels.float() / 255).split(self._pixels.batch)
        return pixels.cpu(), torch.cat([self._pixels.encode(part) for part in parts])

    def _draws(self, step: int) -> StepDraws:
        return draw_step(self.config, step, self.experts.count, (self._spread.image, self._spread.text))

    def _used(self) -> Int[Tensor, "U"]:
        """The pairs that the distillation steps of this encoding use."""
        first = self.done - self.done % self.config.steps_per_encoding
        steps = range(first, first + self.config.steps_per_encoding)
        return torch.cat([self._draws(step).plan.minibatches.flatten() for step in steps]).unique()

    def _image(self) -> Tensor:
        return self.variables["image"] * self._units["image"]

    def _text(self) -> Tensor:
        return self.variables["text"] * self._units["text"]

    def _rates(self) -> Float[Tensor, "2"]:
        return self.variables["rates"].exp() if self.config.optimizer == "adam" else self.variables["rates"]

    def _similarity(self):
        prefix = "similarity."
        factors = {name.removeprefix(prefix): v for name, v in self.variables.items() if name.startswith(prefix)}
        return self._start.similarity.with_factors(factors)

    def _lr(self, name: str) -> float:
        kind = name.partition(".")[0]
        config = self.config
        return {
            "image": config.image_lr,
            "text": config.text_lr,
            "similarity": config.similarity_lr,
            "rates": config.rate_lr,
        }[kind]

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

    def _require_finite(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"Step {self.done}: {name} is {value}. Lower the learning rates of distill, or distill.start_rate."
                )
        if metrics["loss"] > DIVERGED:
            raise NonFiniteError(
                f"Step {self.done}: the matching loss diverged to {metrics['loss']:.3g}. Lower distill.start_rate."
            )

    def _move(self) -> None:
        factor = 1.0
        if self.config.schedule == "cosine":
            factor = (1 + math.cos(math.pi * self.done / self.config.steps)) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = group["base"] * factor
        self._optimizer.step()
        with torch.no_grad():
            if self.config.optimizer == "sgd":
                self.variables["rates"].clamp_(min=SMALLEST_RATE)
            self._bound_image()
        if self._last_of_encoding:
            self._encoded, self._owed = None, None
        self.done += 1

    def _bound_image(self) -> None:
        """Keep pixels in 0 to 1, and pull features back towards the range of real ones."""
        unit, image, pull = self._units["image"], self.variables["image"], self.config.range_pull
        if self._pixels is not None:
            image.clamp_(torch.zeros_like(unit), 1 / unit)
        elif pull and image.requires_grad:
            low, high = self._spread.image_range.to(self.device)
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


def positive(unit: Tensor) -> Tensor:
    """Units to divide by: a feature that never varies has none, and gets the smallest one that others have."""
    return torch.where(unit > 0, unit, unit[unit > 0].min()) if bool((unit > 0).any()) else torch.ones_like(unit)
