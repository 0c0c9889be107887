"""Several image encoders as one, their features side by side: what is distilled then serves students of each.

Letters: B batch, S side in pixels, D width of all features together.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raydd.data.encoders.towers import ImageTower, NormalisedTower, resized


def join(towers: Sequence[ImageTower]) -> ImageTower:
    """One tower of several: the largest input among them, the first one's normalisation, all features in a row."""
    first = towers[0]
    size, width = max(tower.size for tower in towers), sum(tower.width for tower in towers)
    return ImageTower(_Joined(towers), size, width, first.mean, first.std)


class _Joined(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, towers: Sequence[ImageTower]) -> None:
        super().__init__()
        self._sizes = [tower.size for tower in towers]
        self.towers = nn.ModuleList(NormalisedTower(tower.module, tower.mean, tower.std) for tower in towers)
        self.register_buffer("mean", torch.tensor(towers[0].mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(towers[0].std).view(3, 1, 1))

    def forward(self, normalised: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Features of all towers, each of which sees the pixels in its own size and normalisation."""
        pixels = normalised * self.std + self.mean
        features = [tower(resized(pixels, size)) for tower, size in zip(self.towers, self._sizes, strict=True)]
        return torch.cat(features, 1)
