"""Random: real pairs drawn by seed."""

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from raydd.distill.selections.evidence import first_of_each_image


def random_captions(image_of_text: Int[Tensor, "C"], pairs: int, seed: int) -> Int[Tensor, "N"]:
    """Draw captions of `pairs` different images by seed.

    Raises:
        ConfigError: there are fewer training images than pairs.
    """
    generator = Generator().manual_seed(seed)
    return first_of_each_image(image_of_text, torch.randperm(len(image_of_text), generator=generator), pairs)
