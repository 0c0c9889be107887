"""The learned similarity matrix S of the synthetic pairs, and its minibatches.

Letters: N synthetic pairs, B minibatch, r rank.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

Kind = Literal["low-rank", "identity", "full"]


@dataclass(frozen=True)
class Similarity:
    """The matrix S: diag(a) + (alpha/r) L Rᵀ if low-rank (LoRS), the identity, or full, where each entry is learned."""

    kind: Kind
    size: int
    factors: dict[str, Tensor]
    """The learned tensors. low-rank: diagonal (N), left and right (N r); full: entries (N N); identity: none."""
    alpha: float = 1.0
    """Scale of the low-rank part."""

    @classmethod
    def start(cls, kind: Kind, size: int, *, rank: int, alpha: float, generator: Generator) -> Self:
        """Return the identity, with factors that learning can change: a = 1, L standard normal, R = 0."""
        factors: dict[str, Tensor] = {}
        if kind == "low-rank":
            left = torch.randn(size, rank, generator=generator)
            factors = {"diagonal": torch.ones(size), "left": left, "right": torch.zeros(size, rank)}
        elif kind == "full":
            factors = {"entries": torch.eye(size)}
        return cls(kind, size, factors, alpha)

    def with_factors(self, factors: dict[str, Tensor]) -> Self:
        """Return the same similarity with other values of its factors."""
        return replace(self, factors=factors)

    def minibatch(self, index: Int[Tensor, "*T B"]) -> Float[Tensor, "*T B B"]:
        """Return the rows and columns of S that belong to a minibatch, or to several, without forming the rest of S.

        The factors of K matrices can be concatenated to K·N rows. `index` then counts rows over all K matrices.
        """
        if self.kind == "identity":
            return torch.eye(index.shape[-1], device=index.device).expand(*index.shape, -1)
        if self.kind == "full":
            return self.factors["entries"][index[..., :, None], index[..., None, :] % self.size]
        left, right = self.factors["left"][index], self.factors["right"][index]
        return torch.diag_embed(self.factors["diagonal"][index]) + (self.alpha / left.shape[-1]) * left @ right.mT

    def matrix(self, device: str = "cpu") -> Float[Tensor, "N N"]:
        """Return all of S.

        Args:
            device: where the factors are. The identity has none and is made there.
        """
        return self.minibatch(torch.arange(self.size, device=device))
