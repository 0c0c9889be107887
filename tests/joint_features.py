"""Joint features of random pairs, for the selections' tests."""

import torch
from torch import Tensor

from raydd.distill.heads import to_sphere
from raydd.distill.selections import Joint


def make_joint(images: int, captions: int, seed: int, width: int = 8) -> Joint:
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(images).repeat_interleave(captions)
    # Off the origin, as embeddings of one modality are: else the mean of all says nothing.
    image = to_sphere(torch.randn(images, width, generator=generator) + 0.5)
    text = to_sphere(torch.randn(len(owner), width, generator=generator) - 0.5)
    return Joint(image, text, owner)


def joint_of(joint: Joint) -> Tensor:
    """Every pair's joint feature, spelt out in float64 [C 2D]."""
    return torch.cat([joint.images[joint.image_of_text], joint.texts], dim=1).double()
