"""Encoders of some hundred weights, named from outside as `tiny_encoders:image` and `tiny_encoders:text`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raydd.config import EncodersConfig
from raydd.data.encoders import ImageTower, TextTower

SIZE, IMAGE_WIDTH, TEXT_WIDTH = 16, 24, 10


def image(config: EncodersConfig) -> ImageTower:
    """A small convolution and a pooled layer, weights by seed."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4), nn.GELU(), nn.Flatten(), nn.Linear(8 * (SIZE // 4) ** 2, IMAGE_WIDTH)
    )
    return ImageTower(module=module, size=SIZE, width=IMAGE_WIDTH, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def text(config: EncodersConfig, device: str) -> TextTower:
    """Letter counts through a fixed map."""
    return letter_counts(TEXT_WIDTH, device)


def letter_counts(width: int, device: str) -> TextTower:
    """Letter counts through a fixed map to this width."""
    table = torch.randn(128, width, generator=torch.Generator().manual_seed(1))

    def encode(captions: Sequence[str]) -> Tensor:
        return torch.stack([table[[ord(letter) % 128 for letter in caption]].mean(0) for caption in captions]).to(
            device
        )

    return TextTower(encode=encode, width=width)


def wide(config: EncodersConfig) -> ImageTower:
    """Another image encoder: a larger input, more features."""
    torch.manual_seed(2)
    module = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 30))
    return ImageTower(module=module, size=20, width=30, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def letters(config: EncodersConfig, device: str) -> TextTower:
    """Another text encoder: how often each letter comes."""

    def encode(captions: Sequence[str]) -> Tensor:
        return torch.tensor([[caption.count(chr(97 + n)) for n in range(26)] for caption in captions]).float()

    return TextTower(encode=encode, width=26)
