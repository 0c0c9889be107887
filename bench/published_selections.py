"""Herding and K-Center as plain loops over all candidates: reference and baseline of raydd's selections."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def herd(joint: Float[Tensor, "C D"], image_of_text: Int[Tensor, "C"], pairs: int) -> list[int]:
    """Choose in each step the pair that brings the mean of the chosen pairs nearest to the mean of all pairs.

    Each image is used at most once.
    """
    mean, total = joint.mean(0), torch.zeros(joint.shape[1], dtype=joint.dtype)
    chosen: list[int] = []
    used: set[int] = set()
    for count in range(1, pairs + 1):
        best, nearest = -1, float("inf")
        for candidate in range(len(joint)):
            if int(image_of_text[candidate]) in used:
                continue
            distance = float(torch.dist(mean, (total + joint[candidate]) / count))
            if distance < nearest:
                best, nearest = candidate, distance
        chosen.append(best)
        used.add(int(image_of_text[best]))
        total += joint[best]
    return chosen


def centres(joint: Float[Tensor, "C D"], image_of_text: Int[Tensor, "C"], pairs: int, first: int) -> list[int]:
    """Choose in each step the pair that is farthest from its nearest centre; each image is used at most once."""
    chosen, used = [first], {int(image_of_text[first])}
    nearest = [float("inf")] * len(joint)
    while len(chosen) < pairs:
        best, farthest = -1, -1.0
        for candidate in range(len(joint)):
            nearest[candidate] = min(nearest[candidate], float(torch.dist(joint[candidate], joint[chosen[-1]])))
            if int(image_of_text[candidate]) not in used and nearest[candidate] > farthest:
                best, farthest = candidate, nearest[candidate]
        chosen.append(best)
        used.add(int(image_of_text[best]))
    return chosen
