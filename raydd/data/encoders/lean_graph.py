"""Computes the gradient at a frozen network's input with less memory for autograd, and faster on a CPU.

The gradient at a convolution's input needs only the weight. The gradient at a rectifier's input needs to know which
numbers passed, which the rectifier's output shows. torch keeps the inputs of both layers in full, for weight gradients
that are not needed here. In channels-last memory a pointwise convolution is a matrix product on the data as they are
stored, whereas torch on a CPU copies a few images into columns and back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

# Padding, stride, dilation and groups of a convolution.
ConvolutionOptions = tuple[list[int], list[int], list[int], int]


class LeanGraph(nn.Module):
    """A frozen network with a small autograd graph. Its output can be differentiated once, at the network's input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Tensor:
        """Return the network's output."""
        if not (images.requires_grad and torch.is_grad_enabled()):
            return self.network(images)
        with _LeanMode():
            return self.network(images)


class _LeanMode(TorchFunctionMode):
    """Computes convolutions with frozen weights, and rectifiers, by the functions below."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its functions."""
        kwargs = kwargs or {}
        if func is F.conv2d and (output := _frozen_convolution(*args, **kwargs)) is not None:
            return output
        if func is F.relu:
            return _Clamped.apply(args[0], 0.0, float("inf"))
        if func is F.hardtanh:  # relu6 calls it
            return _Clamped.apply(args[0], kwargs["min_val"], kwargs["max_val"])
        return func(*args, **kwargs)


def _frozen_convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] | str = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor | None:
    """Compute a frozen convolution; return None if its weight is not frozen or its padding is a string."""
    if weight.requires_grad or isinstance(padding, str):
        return None
    is_pointwise = weight.shape[2:] == (1, 1) and _pair(stride) == [1, 1] and _pair(padding) == [0, 0] and groups == 1
    if is_pointwise and images.is_cpu and images.is_contiguous(memory_format=torch.channels_last):
        return _Pointwise.apply(images, weight.flatten(1), bias)
    return _Convolution.apply(images, weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
        ctx.shape, ctx.memory_format, ctx.options = images.shape, memory_format_of(images), options
        ctx.save_for_backward(weight)
        return F.conv2d(images, weight, bias, *options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradient at the images."""
        (weight,), (gradient,), (stride, padding, dilation, groups) = ctx.saved_tensors, gradients, ctx.options
        options = padding, stride, dilation, groups
        return (gradient_at_images(gradient, weight, ctx.shape, ctx.memory_format, options), *[None] * 6)


def memory_format_of(images: Tensor) -> torch.memory_format:
    """Return whether images are stored in channels-last memory or in torch's default order."""
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def gradient_at_images(
    gradient: Float[Tensor, "B O h w"],
    weight: Float[Tensor, "O c k l"],
    shape: torch.Size,
    memory_format: torch.memory_format,
    options: ConvolutionOptions,
) -> Float[Tensor, "B C H W"]:
    """Return the gradient at a convolution's images, of which torch needs only the shape and the memory format."""
    padding, stride, dilation, groups = options
    placeholder = torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=memory_format)
    at_images, _, _ = torch.ops.aten.convolution_backward(
        gradient, placeholder, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
    )
    return at_images


class _Pointwise(torch.autograd.Function):
    """A 1 x 1 convolution in channels-last memory: a matrix product with each pixel's channels."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Float[Tensor, "O C"], bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        out = _multiply_channels(images, weight.T)
        return out if bias is None else out.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradient at the images."""
        (weight,) = ctx.saved_tensors
        return _multiply_channels(gradients[0], weight), None, None


def _multiply_channels(images: Float[Tensor, "B C H W"], weight: Float[Tensor, "C O"]) -> Float[Tensor, "B O H W"]:
    """Multiply each pixel's channels by a matrix. The result is not a view, since the next layer may work in place."""
    shape = (len(images), weight.shape[1], *images.shape[2:])
    out = torch.empty(shape, dtype=images.dtype, device=images.device, memory_format=torch.channels_last)
    rows = images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])
    torch.mm(rows, weight, out=out.permute(0, 2, 3, 1).view(len(rows), -1))
    return out


class _Clamped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, low: float, high: float) -> Tensor:
        clamped = rows.clamp(low, high)
        ctx.save_for_backward(clamped)  # a mask takes a quarter of the memory, but torch is four times slower with it
        ctx.bounds = low, high
        return clamped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradient where values passed; at the bounds it is zero, as in torch."""
        (clamped,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], clamped, *ctx.bounds), None, None


def _pair(sides: Sequence[int] | int) -> list[int]:
    return [sides, sides] if isinstance(sides, int) else list(sides)
