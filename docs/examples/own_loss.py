"""A loss of one's own: SigLIP's pairwise sigmoid loss with a learned bias (Zhai et al. 2023, arXiv:2303.15343)."""

import torch.nn.functional as F
from torch import Tensor

from raydd.distill.losses import Loss


def siglip(logits: Tensor, similarity: Tensor, bias: Tensor) -> Tensor:
    """Sum over all pairs of -log sigmoid(z (logit + bias)) over their number of rows; z = 2 S - 1 is 1 or -1.

    A learned similarity S between 0 and 1 weights both cases, which for 0 and 1 is SigLIP's formula.
    """
    own, other = F.logsigmoid(logits + bias), F.logsigmoid(-logits - bias)
    return -(similarity * own + (1 - similarity) * other).sum() / len(logits)


LOSS = Loss(siglip, {"bias": -10.0})
