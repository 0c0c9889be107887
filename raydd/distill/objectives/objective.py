"""The interface of objectives. An objective is the loss that a distillation minimises, drawn anew in each step.

The engine keeps the learned variables, their units, the optimiser, bounds and checkpoints. It asks the objective for
the loss of the current pairs, and for the gradients of that loss.

Letters: N synthetic pairs, d and e widths of the image and the text encoder.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.config import DistillConfig
from raydd.distill.losses import Loss
from raydd.distill.matching import LearnedPairs, StepLoss, StudentRun
from raydd.distill.objectives.real_pairs import RealPairs, standardised
from raydd.distill.trajectories import Trajectories
from raydd.errors import ConfigError

LossOfPairs = Callable[[LearnedPairs], StepLoss]
"""Computes a step's loss and its gradients at the pairs, whose images are features if students train heads."""
StudentGradient = Callable[[StudentRun, Any, LearnedPairs], StepLoss]
"""Computes the matching loss and its gradients, given a student's run, the expert's leg and the pairs. For heads the
leg is a `Leg`; for a trained encoder it is a tuple of the start and the target."""


@dataclass(frozen=True)
class ObjectiveInputs:
    """What an objective may use."""

    config: DistillConfig
    temperature: float
    """tau of the students."""
    loss: Loss
    """The students' loss."""
    experts: Trajectories[Any]
    """Trajectories of the experts. The snapshots that the settings ask for are in the store
    (`DistillConfig.expert_epochs`)."""
    gradient: StudentGradient
    """Gradient through the students that see the images."""
    noise: tuple[Float[Tensor, "2 d"], Float[Tensor, "2 e"]] | None
    """Mean and standard deviation of real features, to draw noise for blending; None if they are not available."""
    real: RealPairs | None
    """The real training pairs; None if no image features are cached."""
    device: str
    """Where to compute."""

    @property
    def real_pairs(self) -> RealPairs:
        """The real training pairs.

        Raises:
            ConfigError: there are no cached features.
        """
        if self.real is None:
            raise ConfigError(
                f"distill.objective {self.config.objective} reads cached features of the real pairs, but there are "
                "none. Set distill.objective to trajectory."
            )
        return self.real


class Objective(ABC):
    """The loss that a distillation minimises. A step's draws depend only on `distill.seed` and the step's number."""

    diverged: ClassVar[float] = torch.inf
    """A loss above this value has diverged."""

    @property
    def learned(self) -> Mapping[str, Tensor]:
        """Start values of the numbers that the objective itself learns, by name, at learning rate `distill.rate_lr`."""
        return {}

    @abstractmethod
    def used(self, step: int) -> Int[Tensor, "U"]:
        """Return the synthetic pairs that a step uses; pairs may be repeated."""

    def expert(self, step: int) -> int | None:  # noqa: ARG002
        """Return the expert that a step reads, or None."""
        return None

    @abstractmethod
    def draw(self, step: int) -> LossOfPairs:
        """Draw the random parts of a step; return its loss as a function of the pairs."""


class AllPairsObjective(Objective):
    """An objective whose steps use all synthetic pairs, and real pairs."""

    def __init__(self, inputs: ObjectiveInputs) -> None:
        """Keep the settings, the device and the real pairs.

        Raises:
            ConfigError: there are no cached features.
        """
        self.config, self.device, self.real = inputs.config, inputs.device, inputs.real_pairs
        self._spreads = self.real.image_spread.to(self.device), self.real.text_spread.to(self.device)

    def used(self, step: int) -> Int[Tensor, "N"]:  # noqa: ARG002
        """Return all pairs."""
        return torch.arange(self.config.pairs)

    def standardised(
        self, images: Float[Tensor, "B d"], texts: Float[Tensor, "B e"]
    ) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B e"]]:
        """Standardise images and texts on the device, each by its own mean and deviation over the real pairs."""
        return standardised(images, self._spreads[0]), standardised(texts, self._spreads[1])
