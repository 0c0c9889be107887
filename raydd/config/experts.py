"""Settings of the experts."""

from dataclasses import dataclass
from typing import Annotated

from raydd.ranges import MOST, Between, Rate, Seed, check_numbers


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Experts: models trained on all real pairs. Distillation matches their weights after each epoch that it needs (the
    expert trajectory)."""

    count: Annotated[int, Between(1, 100_000)] = 8
    """Number of experts, each with a trajectory to match."""
    epochs: Annotated[int, Between(1, 100_000)] = 6
    """Maximum number of epochs that the full-data baseline trains on all real pairs; its best epoch on val is used.
    Experts for distillation train only up to the last epoch that distillation reads."""
    lr: Rate = 0.4
    """Learning rate of SGD for both heads."""
    encoder_lr: Rate = 0.01
    """Learning rate of SGD for the image encoder, if it is trained (`distill.protocol` encoder)."""
    anneal: Annotated[int, Between(0, 100_000)] = 0
    """Decay the learning rates linearly to zero over N epochs, where the trajectory ends (0: constant learning rates,
    as published)."""
    loss: str = "infonce"
    """Loss of the experts, with the identity as similarity matrix; the names are those of `distill.loss`. The
    parameters of your own loss keep their initial values here."""
    batch_size: Annotated[int, Between(2, MOST)] = 128
    """Minibatch size; the last, smaller minibatch of an epoch is dropped."""
    width: Annotated[int, Between(0, 65_536)] = 0
    """Width D of the shared embedding space (0: the image encoder's width, as published)."""
    dropout: Annotated[float, Between(0, 1, below=True)] = 0.1
    """Dropout inside the heads."""
    temperature: Annotated[float, Between(1e-4, 1e4)] = 0.07
    """Temperature tau that divides the cosine similarities of experts, of students, and in distillation (but see
    `distill.temperature`)."""
    seed: Seed = 0
    """Seed of the first expert; expert i uses seed + i."""

    def __post_init__(self) -> None:
        check_numbers("experts", self)

    @property
    def last_epoch(self) -> int:
        """Maximum number of epochs of the full-data row: `epochs`, or fewer if an annealed trajectory ends earlier."""
        return self.within(self.epochs)

    def within(self, epochs: int) -> int:
        """Return `epochs`, or fewer if an annealed trajectory ends earlier."""
        return min(epochs, self.anneal or epochs)

    def lr_multipliers(self, epoch: int, steps: int) -> list[float]:
        """Return the LR multiplier of each step of an epoch; epochs count from 1."""
        if not self.anneal:
            return [1.0] * steps
        return [max(0.0, 1 - (epoch - 1 + step / steps) / self.anneal) for step in range(steps)]
