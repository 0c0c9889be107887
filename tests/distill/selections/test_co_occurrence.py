"""Matched clusters: against every possible matching, where the answer is known, and its seed."""

from itertools import permutations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_features import make_joint

from raydd.distill.heads import to_sphere
from raydd.distill.selections import Joint
from raydd.distill.selections.co_occurrence import clusters_of_each_side, matched_clusters, nearest_to_shared
from raydd.distill.selections.random_pairs import random_captions


@given(pairs=st.integers(1, 60), clusters=st.integers(1, 5), seed=st.integers(0, 999))
@settings(max_examples=60)
def test_no_other_matching_shares_more_pairs(pairs: int, clusters: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    of_image, of_text = (torch.randint(clusters, (pairs,), generator=generator) for _ in range(2))

    def shares(matching: list[tuple[int, int]]) -> list[int]:
        return [int(((of_image == image) & (of_text == text)).sum()) for image, text in matching]

    found = matched_clusters(of_image, of_text, clusters)
    most = max(sum(shares(list(enumerate(order)))) for order in permutations(range(clusters)))
    assert sum(shares(found)) == most
    assert shares(found) == sorted(shares(found), reverse=True)
    assert sorted(image for image, _ in found) == sorted(text for _, text in found) == list(range(clusters))


def test_a_pair_lies_in_both_of_its_matched_clusters() -> None:
    """Images and texts lie about four corners each; most pairs couple corner k with corner k + 1, some any two."""
    generator, corners = torch.Generator().manual_seed(0), torch.eye(4)
    of_image = torch.arange(80).remainder(4)
    of_text = torch.where(torch.arange(80) < 64, (of_image + 1).remainder(4), torch.arange(80).remainder(3))
    image, text = (
        to_sphere(corners[of] + 0.02 * torch.randn(80, 4, generator=generator)) for of in (of_image, of_text)
    )
    joint = Joint(image, text, torch.arange(80))
    chosen = nearest_to_shared(joint, 4, next(seed for seed in range(99) if _apart(joint, seed)))
    assert sorted(of_image[chosen].tolist()) == [0, 1, 2, 3]
    assert torch.equal(of_text[chosen], (of_image[chosen] + 1).remainder(4))
    for pair in chosen.tolist():
        shared = (of_image == of_image[pair]) & (of_text == of_text[pair])
        distances = (image - image[shared].mean(0)).square().sum(1) + (text - text[shared].mean(0)).square().sum(1)
        assert distances[pair] <= distances[shared].min() + 1e-6


def _apart(joint: Joint, seed: int) -> bool:
    """Whether k-means, which may end elsewhere, finds the four corners of both sides from this draw."""
    sides = clusters_of_each_side(joint, random_captions(joint.image_of_text, 4, seed))
    return all(len(side.unique()) == 4 for side in sides)


@given(images=st.integers(2, 25), captions=st.integers(1, 3), seed=st.integers(0, 999), data=st.data())
@settings(max_examples=40)
def test_any_number_of_pairs_each_of_another_image_by_seed(
    images: int, captions: int, seed: int, data: st.DataObject
) -> None:
    joint, pairs = make_joint(images, captions, seed), data.draw(st.integers(1, images))
    chosen = nearest_to_shared(joint, pairs, seed)
    assert len(joint.image_of_text[chosen].unique()) == len(chosen) == pairs
    assert torch.equal(chosen, nearest_to_shared(joint, pairs, seed))
