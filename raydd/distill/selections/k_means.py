"""k-means (Lloyd, IEEE Trans. Inf. Theory 1982): for each of N clusters of pairs, choose the pair nearest to its mean.

MDM also starts from k-means over joint features, but from the means themselves. A selection consists of real pairs,
from which pixels can start.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from raydd.distill.selections.evidence import Joint, choose_greedily
from raydd.distill.selections.random_pairs import random_captions

_ROUNDS = 50  # largest number of iterations of Lloyd's algorithm
_BLOCK = 16_384  # captions that are assigned to clusters at a time


def nearest_to_means(joint: Joint, pairs: int, seed: int) -> Int[Tensor, "N"]:
    """Choose for each cluster, largest first, the pair nearest to its mean among those whose image is still free.

    Clusters grow from pairs drawn by seed.
    """
    images, texts, sizes = cluster_means(joint, random_captions(joint.image_of_text, pairs, seed))
    clusters = iter(sizes.argsort(descending=True, stable=True).tolist())

    def choose_next(free: Bool[Tensor, "C"]) -> int:
        cluster = next(clusters)
        # |x|² is the same for all pairs, so the nearest pair has the largest inner product.
        return int(joint.products(images[cluster], texts[cluster]).masked_fill(~free, -torch.inf).argmax())

    return choose_greedily(joint.image_of_text, pairs, choose_next)


def cluster_means(
    joint: Joint, first_pairs: Int[Tensor, "N"]
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N E"], Int[Tensor, "N"]]:
    """Return the image halves and text halves of the cluster means, and the number of pairs in each cluster.

    Clusters grow from the pairs `first_pairs`. A cluster that loses all its pairs keeps its mean.
    """
    images, texts = joint.images[joint.image_of_text[first_pairs]], joint.texts[first_pairs]
    nearest = torch.full_like(joint.image_of_text, -1)
    for _ in range(_ROUNDS):
        previous, nearest = nearest, nearest_cluster(joint, images, texts)
        if torch.equal(previous, nearest):
            break
        sizes = torch.bincount(nearest, minlength=len(first_pairs))[:, None]
        sums = torch.zeros_like(images), torch.zeros_like(texts)
        for block in torch.arange(len(nearest)).split(_BLOCK):
            sums[0].index_add_(0, nearest[block], joint.images[joint.image_of_text[block]])
            sums[1].index_add_(0, nearest[block], joint.texts[block])
        images, texts = (torch.where(sizes > 0, s / sizes, mean) for s, mean in zip(sums, (images, texts), strict=True))
    return images, texts, torch.bincount(nearest, minlength=len(first_pairs))


def nearest_cluster(joint: Joint, images: Float[Tensor, "N D"], texts: Float[Tensor, "N E"]) -> Int[Tensor, "C"]:
    """Return the cluster of each pair: the one whose mean m has the largest <x, m> - |m|²/2."""
    half_squares = (images.square().sum(1) + texts.square().sum(1)) / 2

    def nearest_of(captions: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
        # An image has several captions, but its product is computed once.
        own_images, position = joint.image_of_text[captions].unique(return_inverse=True)
        products = (joint.images[own_images] @ images.T)[position] + joint.texts[captions] @ texts.T
        return (products - half_squares).argmax(1)

    return torch.cat([nearest_of(captions) for captions in torch.arange(len(joint.texts)).split(_BLOCK)])
