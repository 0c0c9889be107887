"""Arithmetic on a network's trained parameters, kept by name."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

Weights = dict[str, Tensor]


def leaves(weights: Mapping[str, Tensor]) -> Weights:
    """The same numbers, as leaves that gradients can be taken at."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def inner(one: Weights, other: Weights) -> Float[Tensor, ""]:
    """<one, other> over all weights."""
    return torch.stack([(part * other[name]).sum() for name, part in one.items()]).sum()


def moved(weights: Weights, along: Weights, by: float) -> Weights:
    """weights + by · along."""
    return {name: torch.add(weight, along[name], alpha=by) for name, weight in weights.items()}


def scaled(weights: Weights, by: float) -> Weights:
    """by · weights."""
    return {name: weight * by for name, weight in weights.items()}


def squared_distance(one: Weights, other: Weights) -> Float[Tensor, ""]:
    """|one - other|²."""
    return torch.stack([(part - other[name]).square().sum() for name, part in one.items()]).sum()
