"""Distillations of small pairs at their start."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_pairs import Split
from torch import Tensor, nn

from raydd.config import DistillConfig
from raydd.distill.engine import Distillation
from raydd.distill.experts import Experts
from raydd.distill.image_variables import ImageVariable, LearnedFeatures, LearnedPixels, Spread
from raydd.distill.matching import StepLoss, read_numbers
from raydd.distill.objectives import RealPairs
from raydd.distill.selections.random_pairs import random_captions
from raydd.distill.synthetic import SyntheticSet, start_of

# RepBlend, since its similarity and blending are learned and drawn too.
BASE = DistillConfig(
    method="repblend",
    blend="beta",
    similarity="low-rank",
    rank=3,
    pairs=12,
    minibatch=4,
    student_steps=4,
    steps=12,
    target_epochs=2,
    images="features",
    start_rate=0.3,
    image_lr=0.1,
    text_lr=0.2,
    rate_lr=0.02,
    range_pull=0.03,
)


def spread_of(split: Split) -> Spread:
    images = split.images.values[:, 0].float()
    return Spread(torch.stack([images.mean(0), images.std(0)]), torch.stack([images.amin(0), images.amax(0)]))


def distillation(
    split: Split,
    start: SyntheticSet,
    experts: Experts,
    config: DistillConfig,
    image: ImageVariable,
    device: str = "cpu",
) -> Distillation:
    texts = split.texts.float()
    spread = torch.stack([texts.mean(0), texts.std(0)])
    real = RealPairs(split, spread_of(split).moments, spread)  # type: ignore[arg-type] - rows in memory
    return Distillation(start, experts, config, image, text_spread=spread, temperature=0.07, real=real, device=device)


def begun(split: Split, config: DistillConfig) -> SyntheticSet:
    captions = random_captions(split.image_of_text, config.pairs, config.seed)
    return start_of(
        split.images.gather(split.image_of_text[captions], 0),
        split,
        captions,
        seed=config.seed,
        rates=(config.start_rate, config.start_rate),
        similarity=config.similarity,
        rank=config.rank,
        alpha=config.alpha,
        loss=config.loss,
    )


def begin(split: Split, experts: Experts, device: str = "cpu", **changes: Any) -> Distillation:
    config = replace(BASE, **changes)
    return distillation(split, begun(split, config), experts, config, LearnedFeatures(spread_of(split)), device)


SIGLIP = f"{Path(__file__).parents[1] / 'docs/examples/own_loss.py'}:LOSS"


class TinyEncoder(nn.Module):
    """Pixels 3 x 4 x 4 in 0 to 1 to 12 features."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(48, 12, generator=generator, dtype=torch.float64) / 3

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.tanh(pixels.flatten(1) @ self.weight.to(pixels.dtype))


def pixel_run(split: Split, experts: Experts, batch: int = 12, every: int = 1, **changes: Any) -> Distillation:
    config = replace(BASE, **{"images": "pixels", "image_lr": 0.1, "steps_per_encoding": every, **changes})
    pixels = torch.randint(0, 256, (12, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    start = replace(begun(split, config), pixels=pixels)
    image = LearnedPixels(TinyEncoder(), torch.full((3, 1, 1), 0.5), batch, spread_of(split))
    return distillation(split, start, experts, config, image)


def read(loss: StepLoss) -> StepLoss:
    """Return the same with Python's numbers."""
    return replace(
        loss,
        loss=float(loss.loss),
        fractions=read_numbers(loss.fractions),
        student_losses=[float(number) for number in loss.student_losses],
        norms=read_numbers(loss.norms),
    )
