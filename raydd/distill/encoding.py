"""Synthetic pixels through the frozen encoder, and the features' gradient back to them.

Letters: N synthetic pairs, U of them used, d width of the image encoder.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.place import side_by_side

Encode = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B d"]]


class EncodedPixels:
    """The features of the pixels that some distillation steps use, as a leaf that the heads' gradient is taken at.

    The first `batch` images keep their graph between the two calls. More are encoded without one, and again, batch by
    batch, on the way back: memory stays that of one batch a thread.
    """

    def __init__(
        self, encode: Encode, pixels: Float[Tensor, "N 3 H W"], batch: int, used: Int[Tensor, "U"] | None = None
    ) -> None:
        """Encode the pixels.

        Args:
            encode: the image encoder, from pixels in 0 to 1.
            pixels: all synthetic images.
            batch: the most images whose graph fits in memory.
            used: the images that are needed, all if None; the features of others are zeros.
        """
        used = torch.arange(len(pixels), device=pixels.device) if used is None else used.to(pixels.device)
        self._encode, self._pixels = encode, pixels.detach()
        first, *self._parts = used.split(batch)
        leaf = self._pixels[first].requires_grad_()
        self._kept = first, leaf, encode(leaf)
        # Autograd's mode is a thread's own: each thread has to leave it off for itself.
        rest = side_by_side(torch.no_grad()(lambda part: encode(self._pixels[part])), self._parts, pixels.device.type)
        rows = torch.cat([self._kept[2].detach(), *rest])
        self.features = rows.new_zeros(len(pixels), rows.shape[1]).index_copy_(0, used, rows).requires_grad_()

    def gradient(self, at_features: Float[Tensor, "N d"]) -> Float[Tensor, "N 3 H W"]:
        """The gradient at the pixels, given the one at the features; can be asked for once."""
        gradient = torch.zeros_like(self._pixels)
        first, leaf, kept = self._kept
        gradient[first] = torch.autograd.grad(kept, leaf, at_features[first])[0]
        del self._kept, kept

        def back(part: Int[Tensor, "B"]) -> Float[Tensor, "B 3 H W"]:
            leaf = self._pixels[part].requires_grad_()
            return torch.autograd.grad(self._encode(leaf), leaf, at_features[part])[0]

        for part, found in zip(self._parts, side_by_side(back, self._parts, self._pixels.device.type), strict=True):
            gradient[part] = found
        return gradient
