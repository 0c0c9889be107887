"""The projection head, as published: Linear, GELU, Linear, dropout, residual, LayerNorm; then scaling to unit length.

Letters: d encoder width, D width of the shared space, B minibatch, S students side by side (an optional leading axis).
Everything is a function of the parameters, so experts, students and batches of students share the same code.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from raydd.distill import products

NORM_EPSILON = 1e-5


class Head(NamedTuple):
    """The parameters of a projection head, in the published flat order."""

    projection_weight: Float[Tensor, "*S D d"]
    projection_bias: Float[Tensor, "*S D"]
    fc_weight: Float[Tensor, "*S D D"]
    fc_bias: Float[Tensor, "*S D"]
    norm_weight: Float[Tensor, "*S D"]
    norm_bias: Float[Tensor, "*S D"]

    def flat(self) -> Float[Tensor, "*S P"]:
        """Return all parameters as one vector per student, each parameter flattened row by row."""
        students = self.projection_bias.shape[:-1]
        return torch.cat([part.reshape(*students, -1) for part in self], dim=-1)

    @classmethod
    def of_flat(cls, flat: Float[Tensor, "*S P"], width_in: int, width: int) -> Self:
        """Return the head with these flat parameters, as views of `flat`; the inverse of the method `flat`."""
        shapes = [(width, width_in), (width,), (width, width), (width,), (width,), (width,)]
        parts = flat.split([math.prod(shape) for shape in shapes], dim=-1)
        return cls(*(part.reshape(*flat.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)))


def on(head: Head, like: str | Tensor) -> Head:
    """Return the head on a device; given a tensor, on its device and in its precision."""
    return Head(*(part.to(like) for part in head))


def reduced(head: Head) -> Head:
    """Return the head for products that may be rounded: with its weight matrices as `products.reduced` gives them."""
    return Head(*(products.reduced(part) if part.ndim == 2 else part for part in head))


def centred(features: Float[Tensor, "N d"], centre: Float[Tensor, "d"] | None) -> Float[Tensor, "N d"]:
    """Return features minus a centre, on the features' device; None returns the features as they are."""
    return features if centre is None else features - centre.to(features)


def uncentred(head: Head, centre: Float[Tensor, "d"] | None) -> Head:
    """Return a head for features x, given a head for features x - c: W1 (x - c) + b1 = W1 x + (b1 - W1 c).

    Args:
        head: the head, with or without a leading axis of students.
        centre: the vector c; None returns the head as it is.
    """
    if centre is None:
        return head
    weight = head.projection_weight
    return head._replace(projection_bias=head.projection_bias - weight @ centre.to(weight))


def split_heads(heads: Head) -> list[Head]:
    """Split heads along their leading axis into a list; a head without that axis gives a list of one."""
    return [heads] if heads.fc_bias.ndim == 1 else [Head(*parts) for parts in zip(*heads, strict=True)]


def head_size(width_in: int, width: int) -> int:
    """Return the number of parameters P of a head."""
    return width * width_in + width * width + 4 * width


def initial_head(width_in: int, width: int, generator: Generator) -> Head:
    """Draw a fresh head on the generator's device: weights and biases uniform in ±1/√fan-in, as in torch's Linear."""

    def uniform(*shape: int, fan_in: int) -> Tensor:
        bound = 1 / math.sqrt(fan_in)
        return torch.rand(shape, generator=generator, device=generator.device).mul_(2 * bound).sub_(bound)

    return Head(
        uniform(width, width_in, fan_in=width_in),
        uniform(width, fan_in=width_in),
        uniform(width, width, fan_in=width),
        uniform(width, fan_in=width),
        torch.ones(width, device=generator.device),
        torch.zeros(width, device=generator.device),
    )


def initial_heads(image_width: int, text_width: int, width: int, seed: int) -> tuple[Head, Head]:
    """Draw the image head and the text head of a seed, on the CPU, so that they are the same on every machine."""
    generator = Generator().manual_seed(seed)
    return initial_head(image_width, width, generator), initial_head(text_width, width, generator)


def project(
    head: Head, features: Float[Tensor, "*S B d"], dropout: Float[Tensor, "*S B D"] | None = None
) -> Float[Tensor, "*S B D"]:
    """Return the head's output r = LN(h + p), where p = W1 x + b1 and h = W2 gelu(p) + b2.

    Args:
        head: parameters, with or without a leading axis of students.
        features: encoder outputs; without the students' axis, all students see the same features.
        dropout: mask of 0 and 1/(1-rate) that multiplies h (see `dropout_mask`); None: no dropout.
    """
    return taps(head, features, dropout).out


class Taps(NamedTuple):
    """The intermediate results of a head.

    The loss's gradients at p, h and out, multiplied by the layers' inputs, are its gradients at the parameters.
    """

    p: Float[Tensor, "*S B D"]
    """The first layer's output."""
    hidden: Float[Tensor, "*S B D"]
    """The second layer's input, gelu(p)."""
    h: Float[Tensor, "*S B D"]
    """The second layer's output, before dropout."""
    normed: Float[Tensor, "*S B D"]
    """The LayerNorm's normalised rows, before its weight and bias are applied."""
    out: Float[Tensor, "*S B D"]
    """The head's output."""

    def differentiable(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return p, h and out: the tensors at which a step needs the loss's gradient."""
        return self.p, self.h, self.out


def taps(head: Head, features: Float[Tensor, "*S B d"], dropout: Float[Tensor, "*S B D"] | None = None) -> Taps:
    """Return the head's output together with its intermediate results."""
    return taps_from(
        linear(features, head.projection_weight, head.projection_bias),
        lambda hidden: linear(hidden, head.fc_weight, head.fc_bias),
        head.norm_weight.unsqueeze(-2),
        head.norm_bias.unsqueeze(-2),
        dropout,
    )


def taps_from(
    p: Float[Tensor, "*S B D"],
    second_layer: Callable[[Tensor], Tensor],
    norm_weight: Tensor,
    norm_bias: Tensor,
    dropout: Float[Tensor, "*S B D"] | None = None,
) -> Taps:
    """Compute the rest of the head from the first layer's output p, with the second layer as a function."""
    hidden = F.gelu(p)
    h = second_layer(hidden)
    residual = p + (h if dropout is None else h * dropout)
    normed = F.layer_norm(residual, residual.shape[-1:], eps=NORM_EPSILON)
    return Taps(p, hidden, h, normed, normed * norm_weight + norm_bias)


def embed(
    head: Head, features: Float[Tensor, "*S B d"], dropout: Float[Tensor, "*S B D"] | None = None
) -> Float[Tensor, "*S B D"]:
    """Return the head's output on the unit sphere: rows divided by their norm (no epsilon, as published)."""
    return to_sphere(project(head, features, dropout))


def to_sphere(rows: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """Divide each row by its Euclidean norm."""
    return rows / rows.norm(dim=-1, keepdim=True)


def linear(
    features: Float[Tensor, "*S B d"], weight: Float[Tensor, "*S D d"], bias: Float[Tensor, "*S D"]
) -> Float[Tensor, "*S B D"]:
    """Return X Wᵀ + b, for one student or for several."""
    if weight.ndim == 2:
        return products.linear(features, weight, bias)
    return products.linear_of_students(features, weight) + bias.unsqueeze(-2)


def dropout_mask(shape: tuple[int, ...], rate: float, generator: Generator) -> Float[Tensor, "..."] | None:
    """Draw a mask of 0 and 1/(1-rate) on the generator's device; None for rate 0."""
    if rate == 0:
        return None
    keep = torch.rand(shape, generator=generator, device=generator.device) >= rate
    return keep.float().div_(1 - rate)
