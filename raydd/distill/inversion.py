"""Features, then pixels: find images whose features match the distilled ones, close to the real start images.

Letters: N synthetic pairs, d width of the image encoder.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from raydd.device import in_tf32
from raydd.distill.image_variables import Encode
from raydd.errors import NonFiniteError

# Betas of Adam, smaller than usual, since the gradient changes direction quickly. With equal betas a pixel whose
# gradient keeps its sign moves by the full learning rate, and a pixel whose gradient alternates hardly moves. 60 steps
# on four images leave 49.7 of a squared distance of 655. Betas of 0.8 and 0.9 with a cosine schedule left 62.9, and
# changed the pixels as much.
_BETAS = (0.8, 0.8)
_DECAY_FRACTION = 0.4  # fraction of the steps, at the end, over which the learning rate falls to zero


@in_tf32()
def pixels_of_features(
    start: UInt8[Tensor, "N 3 H W"],
    target: Float[Tensor, "N d"],
    encode: Encode,
    *,
    steps: int,
    lr: float,
    on_step: Callable[[int], None] = lambda step: None,
) -> UInt8[Tensor, "N 3 H W"]:
    """Minimise the squared feature distance with Adam; return 8-bit pixels.

    The learning rate falls to zero at the end. The distance has no weights per dimension: what students learn from an
    image is a sum of outer products with its features, so an error counts by its size, regardless of the feature's
    spread.

    Args:
        start: the real images, on the encoder's device.
        target: the distilled features.
        encode: the frozen image encoder, from pixels in 0 to 1.
        steps: Adam steps.
        lr: learning rate at the start, in units of the pixel range 0 to 1.
        on_step: called after each step with its number.

    Raises:
        NonFiniteError: the distance became NaN or infinite.
    """
    pixels = (start.float() / 255).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=lr, betas=_BETAS)
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (steps - step + 1) / (_DECAY_FRACTION * steps))
        # Images are independent in this sum, so each is optimised as if it were alone.
        distance = (encode(pixels) - target).square().sum()
        if not bool(distance.isfinite()):
            raise NonFiniteError(
                f"The feature distance is {float(distance.detach())} at pixel step {step}. Lower pixels.lr."
            )
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
        on_step(step)
    return (pixels.detach() * 255).round().to(torch.uint8)
