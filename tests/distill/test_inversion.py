"""Pixels of features: nearer features, bounded 8-bit pixels, images independent of one another."""

import pytest
import torch
from torch import Tensor

from raydd.distill.inversion import pixels_of_features
from raydd.errors import NonFiniteError

WEIGHT = torch.randn(48, 12, generator=torch.Generator().manual_seed(3)) / 3


def encode(pixels: Tensor) -> Tensor:
    return torch.tanh(pixels.flatten(1) @ WEIGHT)


def problem() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    start = torch.randint(0, 256, (6, 3, 4, 4), generator=generator, dtype=torch.uint8)
    target = encode(torch.rand(6, 3, 4, 4, generator=generator))
    return start, target


def test_features_come_nearer_and_pixels_stay_8_bit() -> None:
    (start, target), seen = problem(), []
    found = pixels_of_features(start, target, encode, steps=80, lr=0.02, on_step=seen.append)
    before, after = ((encode(pixels.float() / 255) - target).square().mean() for pixels in (start, found))
    assert float(after) < 0.05 * float(before)
    assert found.dtype == torch.uint8
    assert seen == list(range(1, 81))


def test_no_step_changes_nothing_and_images_are_independent() -> None:
    start, target = problem()
    assert torch.equal(pixels_of_features(start, target, encode, steps=0, lr=0.1), start)
    whole = pixels_of_features(start, target, encode, steps=5, lr=0.02)
    part = pixels_of_features(start[:2], target[:2], encode, steps=5, lr=0.02)
    assert int((whole[:2].int() - part.int()).abs().max()) <= 1


def test_a_non_finite_distance_is_named() -> None:
    start, target = problem()
    with pytest.raises(NonFiniteError, match="pixel step 1"):
        pixels_of_features(start, target * torch.nan, encode, steps=2, lr=0.02)
