"""Random crops of learned images: at each encoding the frozen encoder sees another part of every image.

Pixels that are learned through one encoder fit its ways with each single place, which no other encoder shares. A crop,
resized and mirrored half of the time, moves every place, so what is learned has to hold wherever it lies, as LGM's
(NeurIPS 2025) augmented images are to hold for encoders that they were not made with.

Letters: N synthetic images, B of them in a batch, S side in pixels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor


def drawn_crops(count: int, least: float, seed: int) -> Float[Tensor, "N 2 3"]:
    """An affine map for each of so many images, from places in its crop to places in the image, both from -1 to 1.

    Args:
        count: number of images N.
        least: the smallest part of an image's area that a crop may be, over 0 and at most 1.
        seed: decides the maps.
    """
    generator = Generator().manual_seed(seed)
    area = least + (1 - least) * torch.rand(count, generator=generator)
    side = area.sqrt()
    across, down = (1 - side) * (2 * torch.rand(2, count, generator=generator) - 1)  # of the crop's centre
    mirrored = 1 - 2 * torch.randint(2, (count,), generator=generator)
    none = torch.zeros(count)
    return torch.stack([mirrored * side, none, across, none, side, down], dim=1).view(count, 2, 3)


def cropped(images: Float[Tensor, "B 3 S S"], crops: Float[Tensor, "B 2 3"]) -> Float[Tensor, "B 3 S S"]:
    """Each image's crop, resized to the image's size; differentiable at the images."""
    places = F.affine_grid(crops.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=False)
