"""Images and texts through the encoders that a set was made with."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.config import Config, EncodersConfig
from raydd.data import ImageEncoder, ImageSource, open_pixels
from raydd.place import images_at_once
from raydd.progress import Progress, silent
from raydd.sets.read import OpenedSet


def encoders_of(opened: OpenedSet, config: Config) -> EncodersConfig:
    """The encoders that a set was made with; weights files and the like are those of the settings."""
    encoders = opened.provenance.encoders
    return replace(config.encoders, image=encoders.image.name, text=encoders.text.name)


@torch.no_grad()
def encode_images(
    encoder: ImageEncoder, images: Sequence[ImageSource], config: Config, device: str, progress: Progress = silent
) -> Float[Tensor, "n d"]:
    """Clean features of images, some at a time, told in images."""
    size, rows = images_at_once(config.place, device), []
    for begin in range(0, len(images), size):
        pixels = open_pixels(images[begin : begin + size], encoder.size)
        rows.append(encoder.module(pixels.to(device).float() / 255).float().cpu())
        progress("images encoded", min(begin + size, len(images)), len(images))
    return torch.cat(rows)
