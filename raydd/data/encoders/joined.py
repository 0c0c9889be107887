"""Joins several image encoders into one that concatenates their features, to distil sets for students of each encoder.

Letters: B batch, S side in pixels, D width of all features together.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raydd.data.encoders.towers import ImageTower, NormalisedTower, resized


def join(towers: Sequence[ImageTower], weights: Sequence[float]) -> ImageTower:
    """Join towers into one, with the largest input size, the first tower's normalisation, and concatenated features.

    Args:
        towers: the towers to join.
        weights: the factor for each tower's features. The head's rows for features that are half as large move a
            quarter as far, so the distilled set depends more on the other towers.
    """
    first = towers[0]
    size, width = max(tower.size for tower in towers), sum(tower.width for tower in towers)
    return ImageTower(_JoinedTowers(towers, weights), size, width, first.mean, first.std)


class _JoinedTowers(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, towers: Sequence[ImageTower], weights: Sequence[float]) -> None:
        super().__init__()
        self._sizes, self._weights = [tower.size for tower in towers], list(weights)
        self.towers = nn.ModuleList(NormalisedTower(tower.module, tower.mean, tower.std) for tower in towers)
        self.register_buffer("mean", torch.tensor(towers[0].mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(towers[0].std).view(3, 1, 1))

    def forward(self, normalised: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Return the features of all towers; each tower gets the pixels in its own size and normalisation."""
        pixels = normalised * self.std + self.mean
        parts = zip(self.towers, self._sizes, self._weights, strict=True)
        features = [weight * tower(resized(pixels, size)) for tower, size, weight in parts]
        return torch.cat(features, 1)
