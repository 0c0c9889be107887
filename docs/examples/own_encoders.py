"""Encoders of your own: the colours of a picture, and the letters of a caption."""

from collections.abc import Sequence

import torch
from torch import nn

from raydd.config import EncodersConfig
from raydd.data.encoders import ImageTower, TextTower


def image(config: EncodersConfig) -> ImageTower:
    """Return mean colours on a grid of 4 x 4. raydd freezes the network and normalises pixels inside its graph."""
    colours = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return ImageTower(colours, size=64, width=48, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def text(config: EncodersConfig, device: str) -> TextTower:
    """Return the number of times that each letter occurs."""
    return TextTower(count_letters, width=26)


def count_letters(captions: Sequence[str]) -> torch.Tensor:
    """Return the letter counts of captions [B 26]."""
    rows = [[caption.lower().count(chr(97 + letter)) for letter in range(26)] for caption in captions]
    return torch.tensor(rows).float()
