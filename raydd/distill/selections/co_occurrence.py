"""Co-occurrence (PDS): cluster images and texts separately, and match the clusters that share the most pairs.

PDS (Choi, Mo and Chae, 2026, arXiv:2602.19756) computes the mean of the pairs that two matched clusters share, and a
generative model makes an image from that mean. A selection consists of real pairs: here it takes the shared pair
nearest to that mean.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from raydd.distill.selections.evidence import Joint, choose_greedily
from raydd.distill.selections.k_means import cluster_means, nearest_cluster
from raydd.distill.selections.random_pairs import random_captions


def nearest_to_shared(joint: Joint, pairs: int, seed: int) -> Int[Tensor, "N"]:
    """Choose, for each two matched clusters, the pair nearest to the mean of the pairs that they share.

    Clusters grow from pairs drawn by seed. Those that share most come first. The pair is chosen among the shared pairs
    whose image is still free, or among all pairs with a free image if no shared pair is left. For clusters that share
    nothing, the mean is that of all pairs.
    """
    image_clusters, text_clusters = clusters_of_each_side(joint, random_captions(joint.image_of_text, pairs, seed))
    matched = iter(matched_clusters(image_clusters, text_clusters, pairs))

    def choose_next(free: Bool[Tensor, "C"]) -> int:
        image_cluster, text_cluster = next(matched)
        shared = (image_clusters == image_cluster) & (text_clusters == text_cluster)
        members = shared if shared.any() else torch.ones_like(shared)
        mean = joint.images[joint.image_of_text[members]].mean(0), joint.texts[members].mean(0)
        candidates = free & shared if (free & shared).any() else free
        return int(joint.products(*mean).masked_fill(~candidates, -torch.inf).argmax())

    return choose_greedily(joint.image_of_text, pairs, choose_next)


def clusters_of_each_side(joint: Joint, first_pairs: Int[Tensor, "N"]) -> tuple[Int[Tensor, "C"], Int[Tensor, "C"]]:
    """Return the image cluster and the text cluster of each pair, by k-means on each half of the joint features."""
    images = Joint(joint.images, joint.texts[:, :0], joint.image_of_text)
    texts = Joint(joint.images[:, :0], joint.texts, joint.image_of_text)
    image_clusters, text_clusters = (
        nearest_cluster(half, *cluster_means(half, first_pairs)[:2]) for half in (images, texts)
    )
    return image_clusters, text_clusters


def matched_clusters(
    image_clusters: Int[Tensor, "C"], text_clusters: Int[Tensor, "C"], clusters: int
) -> list[tuple[int, int]]:
    """Match image and text clusters one to one, so that they share the most pairs; those that share most come first."""
    from scipy.optimize import linear_sum_assignment  # here, since it would delay each command by a third of a second

    shared = torch.bincount(image_clusters * clusters + text_clusters, minlength=clusters**2).reshape(
        clusters, clusters
    )
    rows, columns = linear_sum_assignment(shared.numpy(), maximize=True)
    return sorted(zip(rows.tolist(), columns.tolist(), strict=True), key=lambda match: -int(shared[match]))
