"""Representation blending (RepBlend): mix each pair of a minibatch with another pair, before the projection heads."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor


def blend(
    rows: Float[Tensor, "*T B D"], partners: Float[Tensor, "*T B D"], ratio: Float[Tensor, "*T 1 1"] | float
) -> Float[Tensor, "*T B D"]:
    """Return h' = (1 - λ) h + λ h[π], where the blend ratio λ is the partner's weight.

    Images and texts share λ and the permutation π. The similarity matrix S is not blended.
    """
    return (1 - ratio) * rows + ratio * partners


def draw_ratio(kind: str, *, beta: float, fixed: float, generator: Generator) -> float:
    """Draw the blend ratio λ of a minibatch: 0 for kind none, `fixed` for kind fixed, else from Beta(beta, beta)."""
    if kind == "none":
        return 0.0
    if kind == "fixed":
        return fixed
    # torch's Beta takes no generator, so NumPy draws, with a seed from our generator.
    return float(np.random.default_rng(draw_below(2**62, generator)).beta(beta, beta))


def draw_below(limit: int, generator: Generator) -> int:
    """Draw an integer from 0 to limit - 1. It is read through NumPy, so that no torch operation waits for its value."""
    return int(torch.randint(limit, (), generator=generator).numpy())
