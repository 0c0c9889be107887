"""An image encoder whose weights are trained: a minibatch's features, and the derivatives that students need of them.

The rest of a student step needs two things of the encoder: the features E = f(θ, x), and derivatives of E. So a
minibatch goes through the encoder a few images at a time. The first `at_once` images keep their graph between two
calls. Further images are encoded without a graph, and encoded again, part by part, when a derivative is needed. So
memory is that of `at_once` images, regardless of the size of the minibatch. This is activation checkpointing along the
images. (Checkpointing along the layers would save nothing here: the graph of the second derivative keeps the recomputed
activations too.)

Norm layers stay in eval mode: their statistics are the pretrained ones, their weights and biases are trained.

Letters: B minibatch, S side in pixels, D width of the features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Weights = dict[str, Tensor]


def leaves(weights: Mapping[str, Tensor]) -> Weights:
    """Return the same weights as leaf tensors, at which gradients can be taken."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def inner(first: Weights, second: Weights) -> Float[Tensor, ""]:
    """Return the inner product <first, second> over all weights."""
    return torch.stack([(part * second[name]).sum() for name, part in first.items()]).sum()


def moved(weights: Weights, direction: Weights, factor: float) -> Weights:
    """Return weights + factor · direction."""
    return {name: torch.add(weight, direction[name], alpha=factor) for name, weight in weights.items()}


def scaled(weights: Weights, factor: float) -> Weights:
    """Return factor · weights."""
    return {name: weight * factor for name, weight in weights.items()}


def squared_distance(first: Weights, second: Weights) -> Float[Tensor, ""]:
    """Return |first - second|²."""
    return torch.stack([(part - second[name]).square().sum() for name, part in first.items()]).sum()


Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainedEncoder:
    """An image encoder as a function of its weights."""

    module: nn.Module
    """Maps pixels in 0 to 1 to features, in eval mode. Its own parameters are the pretrained weights, never changed."""
    at_once: int
    """Largest number of images whose graph fits in memory."""
    precision: Precision = "float32"
    """With bfloat16, layers compute in bfloat16 where that is safe (autocast); weights and features stay float32."""

    @property
    def start(self) -> Weights:
        """The pretrained weights."""
        return {name: weight.detach() for name, weight in self.module.named_parameters()}

    def __call__(self, weights: Weights, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Return the features of pixels in 0 to 1, all in one graph."""
        half = self.precision == "bfloat16"
        # The fused kernels of attention cannot be differentiated twice, which the matching loss's gradient needs.
        plain_attention = sdpa_kernel(SDPBackend.MATH)
        with plain_attention, torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=half):
            return functional_call(self.module, weights, (pixels,)).to(pixels.dtype)


@dataclass(frozen=True)
class DirectionalDerivatives:
    """Derivatives of s = Σ <g, v>; g = Σ_b <c_b, ∂E_b/∂θ> is a loss's gradient and v a direction of the weights."""

    gradient: Weights
    """g itself."""
    feature_changes: Float[Tensor, "B D"]
    """∂s/∂c: how the features change along v."""
    at_pixels: Float[Tensor, "B 3 S S"]
    """∂s/∂x with c held constant."""
    at_weights: Weights
    """∂s/∂θ with c held constant; empty unless it was asked for."""


class EncodedImages:
    """A minibatch of images through the encoder under some weights."""

    def __init__(self, encoder: TrainedEncoder, weights: Weights, pixels: Float[Tensor, "B 3 S S"]) -> None:
        """Encode the minibatch.

        Args:
            encoder: the image encoder.
            weights: the encoder's current weights.
            pixels: in 0 to 1.
        """
        self._encoder = encoder
        self._weights = leaves(weights)
        self._parts = [part.detach().requires_grad_() for part in pixels.split(encoder.at_once)]
        self._first_features = encoder(self._weights, self._parts[0])
        with torch.no_grad():
            other_features = [encoder(self._weights, part) for part in self._parts[1:]]
        self.features: Float[Tensor, "B D"] = torch.cat(
            [self._first_features.detach(), *other_features]
        ).requires_grad_()

    def gradient(self, at_features: Float[Tensor, "B D"]) -> Weights:
        """Return a loss's gradient at the weights, g = Σ_b <c_b, ∂E_b/∂θ>, where c is its gradient at the features."""
        total = _TensorSums()
        for graph, _, rows, keep_graph in self._iterate_graphs(at_features):
            total.add(_derivatives(graph, self._weight_tensors, rows, retain_graph=keep_graph))
        return self._by_weight_name(total)

    def derivatives_along(
        self, at_features: Float[Tensor, "B D"], direction: Weights, *, with_weights: bool
    ) -> DirectionalDerivatives:
        """Return the derivatives of s = <g, v>, by differentiating g once more.

        Args:
            at_features: c, held constant.
            direction: v, with the weights' shapes.
            with_weights: also return the derivative at the weights.
        """
        feature_changes, at_pixels, gradient, at_weights = [], [], _TensorSums(), _TensorSums()
        for graph, pixels, rows, keep_graph in self._iterate_graphs(at_features):
            rows = rows.detach().requires_grad_()
            part_gradient = _derivatives(graph, self._weight_tensors, rows, create_graph=True)
            slope = torch.stack([(g * v).sum() for g, v in zip(part_gradient, direction.values(), strict=True)]).sum()
            inputs = [rows, pixels, *(self._weight_tensors if with_weights else [])]
            derivatives = _derivatives(slope, inputs, None, retain_graph=keep_graph)
            feature_changes.append(derivatives[0])
            at_pixels.append(derivatives[1])
            gradient.add([g.detach() for g in part_gradient])
            at_weights.add(derivatives[2:])
        return DirectionalDerivatives(
            self._by_weight_name(gradient),
            torch.cat(feature_changes),
            torch.cat(at_pixels),
            self._by_weight_name(at_weights),
        )

    def backpropagate(
        self, at_features: Float[Tensor, "B D"], *, with_weights: bool
    ) -> tuple[Float[Tensor, "B 3 S S"], Weights]:
        """Return Σ_b <a_b, ∂E_b/∂x> and, if asked for, Σ_b <a_b, ∂E_b/∂θ>."""
        at_pixels, at_weights = [], _TensorSums()
        for graph, pixels, rows, keep_graph in self._iterate_graphs(at_features):
            derivatives = _derivatives(
                graph, [pixels, *(self._weight_tensors if with_weights else [])], rows, retain_graph=keep_graph
            )
            at_pixels.append(derivatives[0])
            at_weights.add(derivatives[1:])
        return torch.cat(at_pixels), self._by_weight_name(at_weights)

    @property
    def _weight_tensors(self) -> list[Tensor]:
        return list(self._weights.values())

    def _iterate_graphs(self, at_features: Float[Tensor, "B D"]) -> Iterator[tuple[Tensor, Tensor, Tensor, bool]]:
        """Yield each part's features (with graph), pixels, rows of `at_features`, and whether its graph is kept."""
        for number, rows in enumerate(at_features.split(self._encoder.at_once)):
            pixels = self._parts[number]
            yield (self._encoder(self._weights, pixels) if number else self._first_features), pixels, rows, number == 0

    def _by_weight_name(self, total: "_TensorSums") -> Weights:
        return dict(zip(self._weights, total.parts, strict=False)) if total.parts else {}


class _TensorSums:
    """A running sum of lists of tensors. Never in place: autograd may return the same tensor for several weights."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Add one list."""
        sums = [part + tensor for part, tensor in zip(self.parts, tensors, strict=True)] if self.parts else tensors
        self.parts = list(sums)


def _derivatives(
    outputs: Tensor, inputs: list[Tensor], grad_outputs: Tensor | None, **options: bool
) -> tuple[Tensor, ...]:
    """Call `torch.autograd.grad`; the result is zero for tensors on which nothing depends."""
    return torch.autograd.grad(outputs, inputs, grad_outputs, materialize_grads=True, **options)
