"""Representation blending (RepBlend): mix each pair of a minibatch with another one, before the projection heads."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor


def blend(
    rows: Float[Tensor, "*T B D"], partners: Float[Tensor, "*T B D"], ratio: Float[Tensor, "*T 1 1"] | float
) -> Float[Tensor, "*T B D"]:
    """h' = (1 - λ) h + λ h[π]; images and texts share π and the blend ratio λ, the partner's weight. S stays."""
    return (1 - ratio) * rows + ratio * partners


def draw_ratio(kind: str, *, beta: float, fixed: float, generator: Generator) -> float:
    """One blend ratio λ for a minibatch: 0 under none, `fixed` under fixed, else Beta(beta, beta)."""
    if kind == "none":
        return 0.0
    if kind == "fixed":
        return fixed
    # torch's Beta takes no generator, so NumPy draws from a seed that ours gives.
    return float(np.random.default_rng(draw_below(2**62, generator)).beta(beta, beta))


def draw_below(limit: int, generator: Generator) -> int:
    """A whole number from 0 to limit - 1, read through NumPy: no operation of torch then waits for a value."""
    return int(torch.randint(limit, (), generator=generator).numpy())
