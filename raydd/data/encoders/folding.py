"""Batch norms of a frozen network folded into the convolutions before them: the same function, less memory traffic."""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_SAME = 1e-4  # largest relative change of the output that rounding explains


@torch.no_grad()
def fold_batch_norms(module: nn.Module, size: int) -> nn.Module:
    """The module with every batch norm folded that directly follows a convolution; itself where none can be.

    Whether neighbours in the module's list of children are neighbours in its graph is not written in them, so the
    result is compared with the original on one image of noise and given only if it agrees.

    Args:
        module: a network in eval mode.
        size: side of its square input.
    """
    folded = copy.deepcopy(module)
    if not sum(_fold_children(parent) for parent in folded.modules()):
        return module
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    want, got = module(noise), folded(noise)
    return folded if bool((got - want).norm() <= _SAME * want.norm()) else module


def _fold_children(parent: nn.Module) -> int:
    pairs = [
        (convolution, name, norm)
        for (_, convolution), (name, norm) in pairwise(parent.named_children())
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    ]
    for convolution, name, norm in pairs:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        setattr(parent, name, getattr(norm, "act", nn.Identity()))  # timm's batch norms bring their activation
    return len(pairs)
