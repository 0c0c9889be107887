"""Prepares images for the encoder: resizes them to a square of 8-bit pixels, plainly or in augmented views.

Letters: V views, S side in pixels, N images.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from raydd.data.images import ImageSource, open_image

Augment = Literal["published", "mild", "none"]
Transform = Callable[[Image.Image], UInt8[Tensor, "3 S S"]]


@cache
def transform_of(augment: Augment, size: int) -> Transform:
    """Return the transform that makes a view of an image.

    `published`: random crop of scale 0.5 to 1 resized bicubically, horizontal flip, RandAugment of 2 operations at
    magnitude 5. `mild`: the same without RandAugment. `none`: only resized, as val and test are. Images stay Pillow
    images until the last step, which is five times faster on a CPU than the same operations on tensors.
    """
    from torchvision.transforms import InterpolationMode, v2  # takes longer to import than all of raydd

    if augment == "none":
        return v2.Compose([v2.Resize((size, size), InterpolationMode.BICUBIC), v2.PILToTensor()])
    crop = v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=InterpolationMode.BICUBIC)
    operations = [v2.RandAugment(num_ops=2, magnitude=5)] if augment == "published" else []
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *operations, v2.PILToTensor()])


def views_of(
    image: Image.Image, transform: Transform, views: int, *, seed: int, index: int
) -> UInt8[Tensor, "V 3 S S"]:
    """Return the views of one image.

    Each view is drawn from (seed, view, index) alone, so its bytes are the same in any process and in any order.

    Args:
        image: an RGB image.
        transform: from `transform_of`. It draws from torch's CPU generator, whose state is restored afterwards.
        views: number of views.
        seed: seed of the augmentation.
        index: the image's index in its split.
    """
    view_pixels = []
    with torch.random.fork_rng(devices=[]):
        for view in range(views):
            state = np.random.SeedSequence((seed, view, index)).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(state[0] >> np.uint64(1)))
            view_pixels.append(transform(image))
    return torch.stack(view_pixels)


def open_pixels(images: Sequence[ImageSource], size: int) -> UInt8[Tensor, "N 3 S S"]:
    """Return images resized to the encoder's square without augmentation, as val and test are."""
    transform = transform_of("none", size)
    return torch.stack([transform(open_image(image)) for image in images])
