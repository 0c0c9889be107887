"""Speeds up a frozen image network on a CPU: oneDNN computes its convolutions, with weights already in oneDNN's layout.

torch itself computes many convolutions of a few images on one thread in another way, and rearranges the weights at
every call. Here an activation that follows a convolution is computed together with it, while the numbers are in the
cache. Where timm pads both sides differently, the weights get a row and a column of zeros instead, so that no padded
copy of the images is made.

The gradient at the images is computed in the same way. The transpose of a convolution of stride 1 is a convolution of
the gradient with the kernel rotated by 180 degrees, which oneDNN computes as fast as the forward convolution.

Letters: B batch, S side in pixels, D width of the features, C and O channels in and out.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from raydd.data.encoders.folding import shared_copy
from raydd.data.encoders.lean_graph import ConvolutionOptions, gradient_at_images, memory_format_of

_SAME = 1e-5  # largest relative change of the features that counts as rounding

Sides = tuple[int, int]
Activation = tuple[str, list[float], str]  # oneDNN's name of the activation, its parameters and its algorithm
_NONE: Activation = ("none", [], "")


@torch.no_grad()
def packed(module: nn.Module, size: int) -> nn.Module:
    """Return the module with packed convolutions, for images of this size only; differentiable once, at the images.

    Only torch's own convolutions and timm's padded one are packed; other layers stay. An activation that is listed
    after a convolution need not follow it in the graph. So the features of two images of noise are compared with those
    of the original module. If they differ, the convolutions are packed without activations. If they still differ, or
    if nothing can be packed, the module itself is returned.

    Args:
        module: a frozen network in eval mode on the CPU, from pixels [B 3 S S] to features [B D]. It is not changed.
        size: side S of its input.
    """
    if not torch.backends.mkldnn.is_available():
        return module
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    input_sides, expected = _record_input_sides(module, noise)
    for with_activations in (True, False):
        try:
            candidate = _pack_convolutions(module, input_sides, with_activations=with_activations)
            output = candidate(noise)
        except (AttributeError, RuntimeError):  # the operations are internal to torch, which may change or remove them
            return module
        if bool((output - expected).norm() <= _SAME * expected.norm()):
            return candidate if any(isinstance(child, _PackedConvolution) for child in candidate.modules()) else module
    return module


class _PackedConvolution(nn.Module):
    """A packed convolution and the activation after it."""

    def __init__(
        self,
        convolution: nn.Conv2d,
        sides: Sides | None,
        padding_before: Sides,
        padding_after: Sides,
        activation: Activation,
    ) -> None:
        super().__init__()
        # 0, or 1 if the padding is uneven
        extra_padding = [end - start for start, end in zip(padding_before, padding_after, strict=True)]
        self.plain = F.pad(convolution.weight.detach(), (extra_padding[1], 0, extra_padding[0], 0)).contiguous()
        self.options = list(padding_after), list(convolution.stride), list(convolution.dilation), convolution.groups
        self.activation, self._sides = activation, sides
        self._weight = _reorder_weight(self.plain, self.options, sides)
        self._bias = None if convolution.bias is None else convolution.bias.detach()

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O h w"]:
        """Return the convolution's output after the activation."""
        if images.requires_grad and torch.is_grad_enabled():
            return _PackedFunction.apply(images, self)
        return self.output(images, self.activation)

    def output(self, images: Float[Tensor, "B C H W"], activation: Activation) -> Float[Tensor, "B O h w"]:
        """Return the convolution's output after the given activation, without a graph."""
        return torch.ops.mkldnn._convolution_pointwise(images, self._weight, self._bias, *self.options, *activation)

    def input_gradient(
        self, gradient: Float[Tensor, "B O h w"], shape: torch.Size, memory_format: torch.memory_format
    ) -> Float[Tensor, "B C H W"]:
        """Return the gradient at the images, which have the given shape and memory format, from that at the output."""
        if self._transposed is None:
            return gradient_at_images(gradient, self.plain, shape, memory_format, self.options)
        weight, options = self._transposed
        return torch.ops.mkldnn._convolution_pointwise(gradient, weight, None, *options, *_NONE)

    @cached_property  # not needed to encode only
    def _transposed(self) -> tuple[Tensor, ConvolutionOptions] | None:
        """Weight and parameters of the transpose as a convolution; None if it is none or needs negative padding."""
        padding, stride, dilation, groups = self.options
        sides = zip(self.plain.shape[2:], padding, dilation, strict=True)
        transposed_padding = [spacing * (kernel - 1) - pad for kernel, pad, spacing in sides]
        if stride != [1, 1] or min(transposed_padding) < 0:
            return None
        rotated = self.plain.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3).contiguous()
        options, output_sides = (transposed_padding, stride, dilation, groups), None
        if self._sides is not None:  # the gradient has as many rows and columns as the output
            rows, columns = (
                side + pad - transposed_pad
                for side, pad, transposed_pad in zip(self._sides, padding, transposed_padding, strict=True)
            )
            output_sides = rows, columns
        return _reorder_weight(rotated, options, output_sides), options


class _PackedFunction(torch.autograd.Function):
    """Computes the output of a packed convolution, and the gradient at its images."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, layer: _PackedConvolution) -> Tensor:
        swish = layer.activation[0] == "swish"  # its derivative needs its input; that of the others needs their output
        output = layer.output(images, _NONE if swish else layer.activation)
        ctx.layer, ctx.shape, ctx.memory_format = layer, images.shape, memory_format_of(images)
        ctx.save_for_backward(*[] if layer.activation == _NONE else [output])
        return F.silu(output) if swish else output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradient at the images: through the activation, then through the convolution."""
        (gradient,), saved, (name, bounds, _) = gradients, ctx.saved_tensors, ctx.layer.activation
        if name == "swish":
            gradient = torch.ops.aten.silu_backward(gradient, *saved)
        elif saved:
            gradient = torch.ops.aten.hardtanh_backward(gradient, *saved, *(bounds or [0.0, float("inf")]))
        return ctx.layer.input_gradient(gradient, ctx.shape, ctx.memory_format), None


def _reorder_weight(weight: Float[Tensor, "O c k l"], options: ConvolutionOptions, sides: Sides | None) -> Tensor:
    """Return a weight in oneDNN's layout for images with the given sides.

    Without the sides oneDNN guesses. If another layout is needed after all, as for 8 x 8 pixels, each call rearranges
    the weight: a pointwise convolution took ten times as long. The number of images does not matter.
    """
    size = sides and [1, weight.shape[1] * options[-1], *sides]
    return torch.ops.aten.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *options, size)


def _record_input_sides(module: nn.Module, images: Tensor) -> tuple[Mapping[str, set[Sides]], Tensor]:
    """Return height and width of each convolution's inputs, by the convolution's name, and the module's output."""
    input_sides: dict[str, set[Sides]] = defaultdict(set)

    def watch(name: str, child: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return child.register_forward_pre_hook(lambda _, inputs: input_sides[name].add(tuple(inputs[0].shape[2:])))

    hooks = [watch(name, child) for name, child in module.named_modules() if isinstance(child, nn.Conv2d)]
    try:
        return input_sides, module(images)
    finally:
        for hook in hooks:
            hook.remove()


def _pack_convolutions(
    module: nn.Module, input_sides: Mapping[str, set[Sides]], *, with_activations: bool
) -> nn.Module:
    """Return a copy with packed convolutions, which shares every other tensor with the module."""
    copied = shared_copy(module)
    for name, parent in list(copied.named_modules()):
        children = [
            (child_name, child) for child_name, child in parent.named_children() if not isinstance(child, nn.Identity)
        ]
        for (child_name, child), (next_child_name, next_child) in pairwise([*children, ("", nn.Identity())]):
            if not isinstance(child, nn.Conv2d):
                continue
            sides = input_sides.get(f"{name}.{child_name}" if name else child_name, set())
            padding = _find_padding(child, sides)
            if padding is None:
                continue
            activation = _find_activation(next_child) if with_activations else _NONE
            setattr(
                parent,
                child_name,
                _PackedConvolution(child, next(iter(sides)) if len(sides) == 1 else None, *padding, activation),
            )
            if activation != _NONE:
                setattr(parent, next_child_name, nn.Identity())
    return copied


def _find_padding(convolution: nn.Conv2d, sides: set[Sides]) -> tuple[Sides, Sides] | None:
    """Return rows and columns of zeros before and after a convolution's input; None if it cannot be packed."""
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.padding import get_same_padding

    if convolution.weight.dtype != torch.float32 or "forward" in vars(convolution):
        return None
    if (
        type(convolution) is nn.Conv2d
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
    ):
        rows, columns = convolution.padding
        return (rows, columns), (rows, columns)
    if type(convolution) is not Conv2dSame or len(sides) != 1 or set(convolution.dilation) != {1}:
        return None
    pairs = zip(next(iter(sides)), convolution.kernel_size, convolution.stride, strict=True)
    rows, columns = (int(get_same_padding(side, kernel, stride, 1)) for side, kernel, stride in pairs)
    return (rows // 2, columns // 2), (rows - rows // 2, columns - columns // 2)


def _find_activation(layer: nn.Module) -> Activation:
    """Return oneDNN's description of an activation that it computes with a convolution; `_NONE` for any other layer."""
    if type(layer) is nn.ReLU:
        return "relu", [], ""
    if type(layer) is nn.ReLU6:
        return "hardtanh", [0.0, 6.0], ""
    return ("swish", [], "") if type(layer) is nn.SiLU else _NONE
