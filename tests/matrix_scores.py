"""Retrieval scores of a similarity matrix that is given as a whole."""

import torch
from torch import Tensor

from raydd.evaluate.retrieval import retrieval_scores


def matrix_scores(scores: Tensor, image_of_text: Tensor) -> dict[str, float]:
    """`retrieval_scores` of embeddings whose products are the matrix, images by captions: unit vectors and columns."""
    return retrieval_scores(torch.eye(len(scores), dtype=scores.dtype), scores.T.contiguous(), image_of_text)
