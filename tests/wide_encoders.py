"""Encoders whose outputs are as wide as the published ones, and cost next to nothing."""

import torch
from tiny_encoders import letter_counts
from torch import nn

from raydd.config import EncodersConfig
from raydd.data.encoders import ImageTower, TextTower

IMAGE_WIDTH, TEXT_WIDTH = 2304, 768


def image(config: EncodersConfig) -> ImageTower:
    """One linear layer, weights by seed."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, IMAGE_WIDTH))
    return ImageTower(module=module, size=8, width=IMAGE_WIDTH, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def text(config: EncodersConfig, device: str) -> TextTower:
    """Letter counts through a fixed map."""
    return letter_counts(TEXT_WIDTH, device)
