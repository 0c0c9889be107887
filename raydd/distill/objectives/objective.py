"""What an objective is: the loss that a distillation lowers, drawn afresh at each step.

The engine keeps what is learned, its units, optimiser, bounds and checkpoints. It asks the objective for the loss of
the pairs as they stand, and for that loss's gradients.

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
from raydd.distill.objectives.real_pairs import RealPairs
from raydd.distill.trajectories import Trajectories
from raydd.errors import ConfigError

LossOfPairs = Callable[[LearnedPairs], StepLoss]
"""A step's loss and its gradients at the pairs, whose images are features where students train heads."""
StudentGradient = Callable[[StudentRun, Any, LearnedPairs], StepLoss]
"""From a student's run, and the leg of the expert that it matches, to the matching loss and its gradients. A leg is a
`Leg` of heads; of a trained encoder it is the start and the target."""


@dataclass(frozen=True)
class ObjectiveInputs:
    """What an objective may go by."""

    config: DistillConfig
    temperature: float
    """tau of the students."""
    loss: Loss
    """The students' loss."""
    experts: Trajectories[Any]
    """Their recipe; those that the settings say it reads are in the store (`DistillConfig.expert_epochs`)."""
    gradient: StudentGradient
    """Of the students that see the images."""
    noise: tuple[Float[Tensor, "2 d"], Float[Tensor, "2 e"]] | None
    """Mean and standard deviation of real features, for partners of a blend that are noise; None where there are
    none."""
    real: RealPairs | None
    """The real training pairs; None where no features of images are cached."""
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
                f"distill.objective {self.config.objective} reads cached features of the real pairs, and there are "
                "none here. Set distill.objective to trajectory."
            )
        return self.real


class Objective(ABC):
    """The loss that a distillation lowers. All that is random in a step follows from `distill.seed` and its number."""

    diverged: ClassVar[float] = torch.inf
    """A loss above this has diverged."""

    @property
    def learned(self) -> Mapping[str, Tensor]:
        """Numbers that it learns beside the pairs, by name, as they start; their learning rate is `distill.rate_lr`."""
        return {}

    @abstractmethod
    def used(self, step: int) -> Int[Tensor, "U"]:
        """The synthetic pairs that a step looks at, repeated or not."""

    def expert(self, step: int) -> int | None:  # noqa: ARG002
        """The expert that a step reads, if it reads one."""
        return None

    @abstractmethod
    def draw(self, step: int) -> LossOfPairs:
        """Draw what is random in a step; gives its loss."""


class OfAllPairs(Objective):
    """An objective whose steps look at all synthetic pairs, and at real ones."""

    def __init__(self, inputs: ObjectiveInputs) -> None:
        """Read what is needed of the real pairs.

        Raises:
            ConfigError: there are no cached features.
        """
        self.config, self.device, self.real = inputs.config, inputs.device, inputs.real_pairs

    def used(self, step: int) -> Int[Tensor, "N"]:  # noqa: ARG002
        """All pairs."""
        return torch.arange(self.config.pairs)
