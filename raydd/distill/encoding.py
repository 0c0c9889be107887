"""Synthetic pixels through the frozen encoder, once a step, and the features' gradient back to them."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Encode = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B d"]]


class EncodedPixels:
    """The features of all pixels, as a leaf that the heads' gradient is taken at.

    Up to `batch` images keep their graph between the two calls. More are encoded without one, and again, batch by
    batch, on the way back: memory stays that of one batch.
    """

    def __init__(self, encode: Encode, pixels: Float[Tensor, "N 3 H W"], batch: int) -> None:
        """Encode the pixels.

        Args:
            encode: the image encoder, from pixels in 0 to 1.
            pixels: all synthetic images.
            batch: the most images whose graph fits in memory.
        """
        self._encode, self._pixels, self._batch = encode, pixels, batch
        if len(pixels) <= batch:
            self._kept = encode(pixels)
            encoded = self._kept.detach()
        else:
            self._kept = None
            with torch.no_grad():
                encoded = torch.cat([encode(part) for part in pixels.split(batch)])
        self.features = encoded.requires_grad_()

    def gradient(self, at_features: Float[Tensor, "N d"]) -> Float[Tensor, "N 3 H W"]:
        """The gradient at the pixels, given the one at the features."""
        if self._kept is not None:
            return torch.autograd.grad(self._kept, self._pixels, at_features)[0]
        parts = []
        for pixels, gradient in zip(self._pixels.split(self._batch), at_features.split(self._batch), strict=True):
            leaf = pixels.detach().requires_grad_()
            parts.append(torch.autograd.grad(self._encode(leaf), leaf, gradient)[0])
        return torch.cat(parts)
