"""Synthetic pixels through the frozen encoder, and the features' gradient back to them.

Letters: N synthetic pairs, U of them used, B of these in a batch, d width of the image encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.memory import kept_by_autograd
from raydd.place import side_by_side

Encode = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B d"]]

KEPT_BYTES = 1_500_000_000  # of the batches' graphs


class EncodedPixels:
    """The features of the pixels that some distillation steps use, as a leaf that the heads' gradient is taken at.

    Batches keep their graph between the two calls as long as all graphs take less than `KEPT_BYTES`; the first one
    always does. The others are encoded without one, and again on the way back.
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
        self._encode, self._pixels, self._device = encode, pixels.detach(), pixels.device.type
        first, *others = used.split(batch)
        begun, nbytes = kept_by_autograd(lambda: self._begin(first))
        room = KEPT_BYTES // max(1, nbytes) - 1 if nbytes < KEPT_BYTES else 0
        self._kept = [begun, *side_by_side(self._begin, others[:room], self._device)]
        self._others = others[room:]
        # Autograd's mode is a thread's own: each thread has to leave it off for itself.
        rest = side_by_side(torch.no_grad()(lambda part: encode(self._pixels[part])), self._others, self._device)
        rows = torch.cat([*(part.features.detach() for part in self._kept), *rest])
        self.features = rows.new_zeros(len(pixels), rows.shape[1]).index_copy_(0, used, rows).requires_grad_()

    def gradient(self, at_features: Float[Tensor, "N d"]) -> Float[Tensor, "N 3 H W"]:
        """The gradient at the pixels, given the one at the features; can be asked for once."""
        gradient = torch.zeros_like(self._pixels)

        def back(part: _Encoded) -> None:
            gradient[part.index] = torch.autograd.grad(part.features, part.pixels, at_features[part.index])[0]

        side_by_side(back, self._kept, self._device)
        del self._kept
        side_by_side(lambda index: back(self._begin(index)), self._others, self._device)
        return gradient

    def _begin(self, index: Int[Tensor, "B"]) -> "_Encoded":
        pixels = self._pixels[index].requires_grad_()
        return _Encoded(index, pixels, self._encode(pixels))


@dataclass(frozen=True)
class _Encoded:
    """A batch and its graph."""

    index: Int[Tensor, "B"]
    pixels: Float[Tensor, "B 3 H W"]
    features: Float[Tensor, "B d"]
