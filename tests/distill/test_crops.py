"""Crops of learned images: inside the image, of the least area, differentiable, whatever the batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from raydd.distill.crops import crop_images, draw_crops
from raydd.distill.image_variables import EncodedPixels


@given(st.floats(0.01, 1.0), st.integers(0, 2**40))
def test_a_crop_lies_inside_the_image_and_has_the_least_area(least: float, seed: int) -> None:
    crops = draw_crops(6, least, seed).double()
    corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)], dtype=torch.double)
    assert (corners @ crops.mT).abs().max() <= 1 + 1e-6
    area = crops[:, :, :2].det().abs()
    assert (area >= least - 1e-6).all()
    assert (area <= 1 + 1e-6).all()
    assert torch.equal(crops, draw_crops(6, least, seed).double())


def test_half_of_the_crops_are_mirrored_and_they_differ() -> None:
    crops = draw_crops(400, 0.25, 0)
    assert 150 < int((crops[:, 0, 0] < 0).sum()) < 250
    assert (crops[:, 1, 1] > 0).all()  # none stands on its head
    assert len(crops.unique(dim=0)) == 400


def test_the_whole_image_is_itself_its_mirror_image_or_its_middle() -> None:
    image = torch.rand(1, 3, 8, 8, dtype=torch.double)
    whole, mirrored, middle = (
        torch.tensor([[[across, 0.0, 0.0], [0.0, down, 0.0]]]) for across, down in ((1, 1), (-1, 1), (0.5, 0.5))
    )
    torch.testing.assert_close(crop_images(image, whole), image)
    torch.testing.assert_close(crop_images(image, mirrored), image.flip(3))
    # Places of an 8 x 8 crop lie at quarters between the image's own.
    inner = crop_images(image, middle)[..., 3:5, 3:5]
    near, far = image[..., 3, 3], image[..., 4, 4]
    between = (9 * near + 3 * (image[..., 3, 4] + image[..., 4, 3]) + far) / 16
    torch.testing.assert_close(inner[..., 0, 0], between)


def test_the_gradient_agrees_with_finite_differences() -> None:
    torch.manual_seed(0)
    image, crops = torch.rand(2, 3, 5, 5, dtype=torch.double, requires_grad=True), draw_crops(2, 0.3, 1)
    assert torch.autograd.gradcheck(lambda given: crop_images(given, crops), image)


@pytest.mark.parametrize("batch", [2, 9])
def test_an_image_is_cropped_alike_in_any_batch_forth_and_back(batch: int) -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
    encoder.requires_grad_(False)
    pixels, crops = torch.rand(9, 3, 8, 8, dtype=torch.double), draw_crops(9, 0.5, 3)
    at_features, leaf = torch.randn(9, 5, dtype=torch.double), pixels.clone().requires_grad_()
    features = encoder(crop_images(leaf, crops))
    (want,) = torch.autograd.grad(features, leaf, at_features)

    encoded = EncodedPixels(encoder, pixels, batch, crops=crops)

    torch.testing.assert_close(encoded.features, features)
    torch.testing.assert_close(encoded.gradient(at_features), want)
