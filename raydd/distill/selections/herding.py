"""Herding (Welling, ICML 2009): choose pairs whose mean joint feature follows the mean of all pairs.

Differences from the published code: joint features have unit length in each modality, and an image gives one pair.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from raydd.distill.selections.evidence import Joint, choose_greedily


def herd(joint: Joint, pairs: int) -> Int[Tensor, "N"]:
    """Choose pairs x_1, x_2, ... so that each one brings the mean of the chosen pairs closest to the mean μ of all.

    Since |x|² is the same for all pairs, the t-th pair is the one with the largest <x, t μ - (x_1 + ... + x_{t-1})>.
    """
    mean_products = joint.products(*joint.mean())
    scores = mean_products.clone()

    def choose_next(free: Bool[Tensor, "C"]) -> int:
        chosen = int(scores.masked_fill(~free, -torch.inf).argmax())
        scores.add_(mean_products).sub_(joint.products(*joint.row(chosen)))
        return chosen

    return choose_greedily(joint.image_of_text, pairs, choose_next)
