"""A loss of your own: SigLIP's pairwise sigmoid loss with a learned bias (Zhai et al. 2023, arXiv:2303.15343)."""

import torch.nn.functional as F
from torch import Tensor

from raydd.distill.losses import Loss


def siglip(logits: Tensor, similarity: Tensor, bias: Tensor) -> Tensor:
    """Return the sum over all entries of -log sigmoid(z (logit + bias)), divided by the number of rows.

    In SigLIP z = 2 S - 1 is 1 or -1. A learned similarity S between 0 and 1 is the weight of the two cases.
    """
    positive, negative = F.logsigmoid(logits + bias), F.logsigmoid(-logits - bias)
    return -(similarity * positive + (1 - similarity) * negative).sum() / len(logits)


LOSS = Loss(siglip, {"bias": -10.0})
