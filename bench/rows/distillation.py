"""Distillation steps on pixels and on features, both with the published settings and the constant-memory gradient."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from bench import published_loop
from bench.inputs import TEMPERATURE, encoders, experts_in, flat, pictures
from bench.measuring import Pieces, Size
from bench.rows.row import Memory, Row
from raydd.config import PlaceConfig
from raydd.device import images_at_once
from raydd.distill.draws import draw_step
from raydd.distill.engine import Distillation
from raydd.distill.experts import Experts
from raydd.distill.image_variables import ImageVariable, LearnedFeatures, LearnedPixels, Spread
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet
from raydd.settings import load

# The published learning rates and range are those of pixels.
PUBLISHED = replace(
    load(preset="repblend-flickr30k-100").distill,
    images="features",
    image_lr=1e-3,
    text_lr=1e-3,
    similarity_lr=1e-3,
    rate_lr=1e-4,
    range_pull=0.03,
)
_EXPERTS = 4
_STORED_EPOCHS = 11  # snapshots in a file of the published code: the start and 10 epochs


def _feature_step(size: Size, folder: Path) -> Pieces:
    experts = experts_in(folder, size.width, size.width // 3, size.width, count=_EXPERTS, epochs=2)
    start = start_of(torch.randn(PUBLISHED.pairs, size.width, generator=Generator().manual_seed(1)), size.width // 3)
    distillation = distillation_of(start, experts, LearnedFeatures(spread_of(start)))
    return _pieces(distillation.step, _published_step(start, start.image_features, experts, folder, lambda rows: rows))


def pixel_pieces(size: Size, folder: Path) -> Pieces:
    models = encoders(size.image_size)
    image_width, text_width = models.image.width, models.text.width
    experts = experts_in(folder, image_width, text_width, image_width, count=_EXPERTS, epochs=2)
    images, _ = pictures(PUBLISHED.pairs)
    square = (size.image_size, size.image_size)
    pixels = torch.stack([_pixels_of(image.resize(square)) for image in images])
    start = start_of(torch.zeros(PUBLISHED.pairs, image_width), text_width, pixels)
    batch = images_at_once(PlaceConfig(), "cpu")
    image = LearnedPixels(models.image.fast, models.image.pixel_std, batch, spread_of(start))
    distillation = distillation_of(start, experts, image)
    return _pieces(distillation.step, _published_step(start, pixels.float() / 255, experts, folder, models.plain))


def _pieces(raydd: Callable[[], object], published: Callable[[], object]) -> Pieces:
    return Pieces({"published step": published, "step": raydd}, {"published step": 1}, {"step": 1})


def _published_step(
    start: SyntheticSet, image: Tensor, experts: Experts, folder: Path, encode: Callable[[Tensor], Tensor]
) -> Callable[[], object]:
    file = folder / "expert.pt"
    epochs = [flat(experts.snapshot(0, epoch)) for epoch in (0, 1, 2)]
    padding = [tuple(part.clone() for part in epochs[2]) for _ in range(_STORED_EPOCHS - len(epochs))]
    published_loop.write_trajectory(file, [*epochs, *padding])  # type: ignore[list-item]
    variables = published_loop.Variables(
        image, start.text_features, **start.similarity.factors, rates=torch.tensor([start.rate_image, start.rate_text])
    )
    draws = draw_step(PUBLISHED, 0, 1, (torch.ones(2, 1), torch.ones(2, 1)))
    plan = published_loop.Plan(
        draws.start_epoch,
        draws.start_epoch + PUBLISHED.target_epochs,
        draws.plan.minibatches,
        draws.plan.permutations,
        draws.plan.ratios,
    )
    return lambda: published_loop.distillation_step(
        variables, file, plan, encode, width=experts.width, alpha=PUBLISHED.alpha, temperature=TEMPERATURE
    )


def start_of(image_features: Tensor, text_width: int, pixels: Tensor | None = None) -> SyntheticSet:
    generator, pairs = Generator().manual_seed(2), len(image_features)
    similarity = Similarity.start("low-rank", pairs, rank=PUBLISHED.rank, alpha=PUBLISHED.alpha, generator=generator)
    texts = torch.randn(pairs, text_width, generator=generator)
    rate = PUBLISHED.start_rate
    numbers = torch.arange(pairs)
    return SyntheticSet(image_features, texts, similarity, rate, rate, PUBLISHED.loss, numbers, numbers, pixels)


def distillation_of(start: SyntheticSet, experts: Experts, image: ImageVariable, device: str = "cpu") -> Distillation:
    spread = torch.ones(2, start.text_features.shape[1])
    return Distillation(start, experts, PUBLISHED, image, text_spread=spread, temperature=TEMPERATURE, device=device)


def spread_of(start: SyntheticSet) -> Spread:
    moments = torch.ones(2, start.image_features.shape[1])
    wide_range = torch.tensor([[-1e6], [1e6]]).expand_as(moments)  # a range so wide that features are never moved back
    return Spread(moments, wide_range)


def _pixels_of(image) -> Tensor:
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(image)


DISTILLATION = (
    Row(
        "pixels",
        "a pixel distillation step, 99 pairs, 8 student steps of 20",
        "two passes that encode each minibatch, and reading the expert's file",
        floor=2.5,
        aim=4,
        quick_floor=1.3,
        memory=Memory(share=0.5),
        pieces=pixel_pieces,
    ),
    Row(
        "features",
        "a feature distillation step, heads of 2304, 8 student steps of 20",
        "two passes with whole heads, and reading the expert's file",
        floor=3,
        aim=6,
        quick_floor=1.5,
        pieces=_feature_step,
    ),
)
