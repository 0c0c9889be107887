"""Random crops of learned images: at each encoding the frozen encoder sees a different part of each image.

Pixels that are learned through one encoder fit its behaviour at each single position, which other encoders do not
share. A crop, resized, and mirrored half of the time, moves all positions, so that the learned content has to work at
any position. LGM (NeurIPS 2025) augments its images for a similar reason: they should work with other encoders too.

Letters: N synthetic images, B of them in a batch, S side in pixels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor


def draw_crops(count: int, least_area: float, seed: int) -> Float[Tensor, "N 2 3"]:
    """Draw an affine map for each image, from positions in its crop to positions in the image, both from -1 to 1.

    Args:
        count: number of images N.
        least_area: smallest fraction of an image's area that a crop may cover, above 0 and at most 1.
        seed: seed of the maps.
    """
    generator = Generator().manual_seed(seed)
    area = least_area + (1 - least_area) * torch.rand(count, generator=generator)
    side = area.sqrt()
    across, down = (1 - side) * (2 * torch.rand(2, count, generator=generator) - 1)  # of the crop's centre
    mirrored = 1 - 2 * torch.randint(2, (count,), generator=generator)
    zeros = torch.zeros(count)
    return torch.stack([mirrored * side, zeros, across, zeros, side, down], dim=1).view(count, 2, 3)


def crop_images(images: Float[Tensor, "B 3 S S"], crops: Float[Tensor, "B 2 3"]) -> Float[Tensor, "B 3 S S"]:
    """Return each image's crop, resized to the size of the image; differentiable at the images."""
    grid = F.affine_grid(crops.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
