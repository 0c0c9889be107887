"""Defines encoders: frozen towers that turn images or captions into feature vectors.

Letters: B batch, S side of the square image in pixels, D width of the features, V width of the token states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from raydd.data.encoders.on_cpu import packed

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

CPU_CAPTIONS = 32  # captions per forward pass of a text network on a CPU

TextEncode = Callable[[Sequence[str]], Float[Tensor, "B D"]]


@dataclass(frozen=True)
class ImageTower:
    """An image network from its family: without classifier, for pixels that the caller has normalised."""

    module: nn.Module
    """Maps normalised pixels [B 3 S S] to features [B D]."""
    size: int
    """Side S of its input in pixels."""
    width: int
    """Width D of its features."""
    mean: tuple[float, ...]
    """Mean of each channel that the network was trained with, for pixels in 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel that the network was trained with."""


@dataclass(frozen=True)
class TextTower:
    """A text network with its tokenizer."""

    encode: TextEncode
    """Maps captions to features [B D] on the tower's device, without gradients."""
    width: int
    """Width D of its features."""


@dataclass(frozen=True)
class ImageEncoder:
    """A frozen image encoder: in eval mode, without parameter gradients, differentiable in its pixels."""

    name: str
    size: int
    """Side S of its input in pixels."""
    width: int
    """Width D of its features."""
    module: "NormalisedTower"
    """Maps pixels [B 3 S S] in 0 to 1 to features [B D]; `.double()` converts it to float64."""
    identity: str
    """Name and hash of the weights: what records are named by."""

    @property
    def pixel_std(self) -> Float[Tensor, "3 1 1"]:
        """The standard deviation that normalises the pixels. It is the unit of learned pixels."""
        return self.module.std

    @cached_property
    def fast(self) -> nn.Module:
        """The module in the fastest form for its device: equal except for rounding, differentiable once."""
        return packed(self.module, self.size) if self.module.mean.device.type == "cpu" else self.module


@dataclass(frozen=True)
class TextEncoder:
    """A frozen text encoder."""

    name: str
    width: int
    """Width D of its features."""
    identity: str
    """Name and hash of the weights: what records are named by."""
    encode: TextEncode
    """Maps captions to features [B D], float32, on the encoder's device."""


class NormalisedTower(nn.Module):
    """An image tower with its normalisation in the graph, since gradients are taken at pixels in 0 to 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, tower: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Return the features of pixels in 0 to 1."""
        return self.tower((pixels - self.mean) / self.std)


def resized(pixels: Float[Tensor, "B 3 S S"], size: int) -> Float[Tensor, "B 3 s s"]:
    """Resize pixels in 0 to 1 to the size of an encoder's input, differentiably."""
    if pixels.shape[-1] == size:
        return pixels
    return F.interpolate(pixels, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


@torch.no_grad()
def feature_width(module: nn.Module, size: int) -> int:
    """Return the width of a network's features for a blank image. Sets eval mode, so that batch norms do not change."""
    return module.eval()(torch.zeros(1, 3, size, size)).shape[-1]


def pool(states: Float[Tensor, "B T V"], attended: Int[Tensor, "B T"], pooling: str) -> Float[Tensor, "B V"]:
    """Pool to one vector per caption: the mean of the attended tokens' states, or the first token's state for `cls`."""
    if pooling == "cls":
        return states[:, 0]
    weights = attended[:, :, None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)
