"""Speeds up a frozen network: computes standardised weights once, and folds batch norms into convolutions."""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

_SAME = 1e-4  # largest relative change of the output that counts as rounding


@torch.no_grad()
def folded(module: nn.Module, size: int) -> nn.Module:
    """Return the module with precomputed standardised weights, and with batch norms folded into convolutions.

    Children that are adjacent in the module need not be adjacent in its graph. So the network after each change is
    compared with the network before it on one image of noise, and the change is kept only if both agree.

    Args:
        module: a network in eval mode. It is not changed; if nothing can be folded, it is returned itself.
        size: side of the network's square input.
    """
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    for fold in (_standardise_children, _fold_children):
        candidate = shared_copy(module)
        if not sum(fold(parent) for parent in list(candidate.modules())):
            continue
        expected, output = module(noise), candidate(noise)
        if bool((output - expected).norm() <= _SAME * expected.norm()):
            module = candidate
    return module


def shared_copy(module: nn.Module) -> nn.Module:
    """Return a copy whose layers can be replaced, and which shares the module's parameters and buffers."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def _standardise_children(parent: nn.Module) -> int:
    """Replace timm's convolutions that standardise their weights at each call, as NFNet's do, by plain convolutions."""
    from timm.layers import std_conv

    standardised = (std_conv.StdConv2d, std_conv.ScaledStdConv2d)
    same_padded = (std_conv.StdConv2dSame, std_conv.ScaledStdConv2dSame)
    convolutions: list[tuple[str, Any]] = [
        (name, child) for name, child in parent.named_children() if isinstance(child, (*standardised, *same_padded))
    ]
    for name, child in convolutions:
        setattr(
            parent, name, _plain_convolution(child, pads_itself=isinstance(child, same_padded) and bool(child.same_pad))
        )
    return len(convolutions)


def _plain_convolution(convolution: nn.Conv2d, *, pads_itself: bool) -> nn.Conv2d:
    from timm.layers.conv2d_same import Conv2dSame

    with _WeightRecorder() as recorder:  # computes the weight by timm's own formula
        convolution(convolution.weight.new_zeros(1, convolution.in_channels, *convolution.kernel_size))
    layer_type: Any = Conv2dSame if pads_itself else nn.Conv2d
    plain: nn.Conv2d = layer_type(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        stride=convolution.stride,
        padding=convolution.padding,
        dilation=convolution.dilation,
        groups=convolution.groups,
        bias=convolution.bias is not None,
    )
    plain.weight = nn.Parameter(recorder.weight, requires_grad=False)
    if convolution.bias is not None:
        plain.bias = convolution.bias
    return plain.eval()


class _WeightRecorder(TorchFunctionMode):
    """Records the weight that a convolution actually uses."""

    weight: Tensor

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its functions."""
        if func is F.conv2d:
            self.weight = args[1].detach()
        return func(*args, **kwargs or {})


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
        setattr(parent, name, getattr(norm, "act", nn.Identity()))  # timm's batch norms include an activation
    return len(pairs)
