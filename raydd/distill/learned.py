"""A synthetic set while it is learned: its variables, their units, the optimiser, and the number of steps done.

What a distillation step does to it is the subclasses': `engine.Distillation` on frozen encoders,
`encoder_engine.EncoderDistillation` where students train the image encoder too.

Letters: N synthetic pairs, e width of the text encoder.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raydd.config import DistillConfig
from raydd.distill.block_adam import BlockAdam
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError, RecordError

DIVERGED = 1e3  # a matching loss this far above its start, near 1 a head, does not come back
SMALLEST_RATE = 1e-4  # keeps a learned rate positive under plain SGD


class LearnedSet(ABC):
    """The variables of a synthetic set and how they move."""

    def __init__(
        self,
        start: SyntheticSet,
        config: DistillConfig,
        *,
        image: Tensor,
        image_unit: Tensor,
        text_unit: Float[Tensor, "e"],
        block: bool,
        device: str,
    ) -> None:
        """Put the variables at the start set.

        Args:
            start: real pairs to start from, or a set to go on from.
            config: the distillation's settings.
            image: what is learned of the images: features, or pixels in 0 to 1.
            image_unit: what the image variable is in units of.
            text_unit: the same of the text features.
            block: one second moment for the whole image variable (see `BlockAdam`).
            device: where to compute.
        """
        self.config, self.device, self.done, self._start = config, device, 0, start
        adam = config.optimizer == "adam"
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
            {"params": [value], "lr": lr, "base": lr, "block": block and name == "image"}
            for name, value in self.variables.items()
            if (lr := self._lr(name)) > 0
        ]
        self._optimizer: torch.optim.Optimizer = (
            BlockAdam(groups, betas=(config.momentum, 0.999))
            if adam
            else torch.optim.SGD(groups, momentum=config.momentum)
        )

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Take one distillation step; gives the losses, the gradients' norms and the rates."""

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
        return state | {"done": torch.tensor(self.done)}

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
        self.done = int(state["done"])

    @abstractmethod
    def _synthetic_image(self) -> tuple[Tensor | None, Tensor]:
        """8-bit pixels, if there are any, and the image features."""

    @abstractmethod
    def _bound_image(self) -> None:
        """Bring the image variable back to where it may be."""

    def _metrics(
        self, loss: float, fractions: Mapping[str, float], student_losses: Sequence[float], norms: Mapping[str, float]
    ) -> dict[str, float]:
        """What a step tells: losses, gradients' norms and rates."""
        rate_image, rate_text = self._rates().tolist()
        return {
            "loss": loss,
            **fractions,
            "student_loss/first": student_losses[0],
            "student_loss/last": student_losses[-1],
            **{f"gradient/{name}": norm for name, norm in norms.items()},
            "rate/image": rate_image,
            "rate/text": rate_text,
        }

    def _image(self) -> Tensor:
        return self.variables["image"] * self._units["image"]

    def _text(self) -> Tensor:
        return self.variables["text"] * self._units["text"]

    def _rates(self) -> Float[Tensor, "2"]:
        return self.variables["rates"].exp() if self.config.optimizer == "adam" else self.variables["rates"]

    def _similarity(self) -> Similarity:
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
        self.done += 1

    def _eight_bit(self) -> UInt8[Tensor, "N 3 H W"]:
        """The pixels, where those are learned, as they are stored."""
        return (self._image() * 255).round().clamp(0, 255).to(torch.uint8)

    def _bound_pixels(self) -> None:
        """Keep pixels in 0 to 1."""
        unit = self._units["image"]
        self.variables["image"].clamp_(torch.zeros_like(unit), 1 / unit)


def unit_pixels(start: SyntheticSet) -> Float[Tensor, "N 3 H W"]:
    """The start's pixels in 0 to 1.

    Raises:
        RecordError: it has none.
    """
    if start.pixels is None:
        raise RecordError("A distillation on pixels needs pixels to start from.")
    return start.pixels.float() / 255


def positive(unit: Tensor) -> Tensor:
    """Units to divide by: a feature that never varies has none, and gets the smallest one that others have."""
    return torch.where(unit > 0, unit, unit[unit > 0].min()) if bool((unit > 0).any()) else torch.ones_like(unit)
