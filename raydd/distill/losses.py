"""Losses of a logit matrix Z (rows images, columns texts) and a similarity matrix S of the same shape.

Formulas as published with LoRS and RepBlend; each gives one number for each student of an optional leading axis.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_EPSILON = 1e-6  # inside the published logarithms and counts

Loss = Callable[[Float[Tensor, "*S B B"], Float[Tensor, "B B"]], Float[Tensor, "*S"]]


def weighted_bce(logits: Float[Tensor, "*S B B"], similarity: Float[Tensor, "B B"]) -> Float[Tensor, "*S"]:
    """Half the mean element loss of positives plus half that of negatives; a positive has S above 0.5 (LoRS).

    The element loss is -S log(σ(Z) + ε) - (1 - S) log(1 - σ(Z) + ε), ε = 1e-6. S may leave [0, 1].
    """
    probability = torch.sigmoid(logits)
    element = -similarity * torch.log(probability + _EPSILON)
    element = element - (1 - similarity) * torch.log(1 - probability + _EPSILON)
    positive = (similarity > 0.5).to(element.dtype)
    negative = 1 - positive
    over_positives = (element * positive).sum((-2, -1)) / (positive.sum((-2, -1)) + _EPSILON)
    over_negatives = (element * negative).sum((-2, -1)) / (negative.sum((-2, -1)) + _EPSILON)
    return (over_positives + over_negatives) / 2


def bce(logits: Float[Tensor, "*S B B"], similarity: Float[Tensor, "B B"]) -> Float[Tensor, "*S"]:
    """Mean over all entries of -S log σ(Z) - (1 - S) log(1 - σ(Z)); linear in S, so S may leave [0, 1]."""
    return (F.softplus(logits) - similarity * logits).mean((-2, -1))


def info_nce(logits: Float[Tensor, "*S B B"], similarity: Float[Tensor, "B B"]) -> Float[Tensor, "*S"]:
    """Half the cross-entropies of rows and of columns against the rows and columns of S, which are not normalised."""
    rows = -(similarity * logits.log_softmax(-1)).sum(-1).mean(-1)
    columns = -(similarity * logits.log_softmax(-2)).sum(-2).mean(-1)
    return (rows + columns) / 2


LOSSES: dict[str, Loss] = {"wbce": weighted_bce, "bce": bce, "infonce": info_nce}
