"""Several image encoders as one, their features side by side: what is distilled then serves students of each.

Letters: B batch, S side in pixels, D width of all features together.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raydd.data.encoders.towers import ImageTower, NormalisedTower, resized


def join(towers: Sequence[ImageTower], weights: Sequence[float]) -> ImageTower:
    """One tower of several: the largest input among them, the first one's normalisation, all features in a row.

    Args:
        towers: what is joined.
        weights: what each tower's features are multiplied by. A head's rows for features half as large move a quarter
            as far, so what is distilled leans on the others.
    """
    first = towers[0]
    size, width = max(tower.size for tower in towers), sum(tower.width for tower in towers)
    return ImageTower(_Joined(towers, weights), size, width, first.mean, first.std)


class _Joined(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, towers: Sequence[ImageTower], weights: Sequence[float]) -> None:
        super().__init__()
        self._sizes, self._weights = [tower.size for tower in towers], list(weights)
        self.towers = nn.ModuleList(NormalisedTower(tower.module, tower.mean, tower.std) for tower in towers)
        self.register_buffer("mean", torch.tensor(towers[0].mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(towers[0].std).view(3, 1, 1))

    def forward(self, normalised: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Features of all towers, each of which sees the pixels in its own size and normalisation."""
        pixels = normalised * self.std + self.mean
        parts = zip(self.towers, self._sizes, self._weights, strict=True)
        features = [weight * tower(resized(pixels, size)) for tower, size, weight in parts]
        return torch.cat(features, 1)
