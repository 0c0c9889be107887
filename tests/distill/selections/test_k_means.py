"""k-means against SciPy's, its clusters, and its seed."""

import sys
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_features import joint_of, make_joint
from scipy.cluster.vq import kmeans2

from raydd.config import Selection
from raydd.distill.heads import to_sphere
from raydd.distill.selections import SELECTIONS, Joint
from raydd.distill.selections.k_means import cluster_means, nearest_to_means
from raydd.distill.selections.random_pairs import random_captions


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[cluster_means.__module__], "_BLOCK", 7)  # its name is the function's too


@pytest.mark.usefixtures("small_blocks")
def test_the_means_are_those_of_scipy() -> None:
    joint = make_joint(60, 3, 0)
    first = torch.arange(0, 180, 30)
    rows = joint_of(joint).numpy()
    theirs, labels = kmeans2(rows, rows[first.numpy()], iter=60, minit="matrix")
    images, texts, sizes = cluster_means(joint, first)
    np.testing.assert_allclose(torch.cat([images, texts], dim=1).numpy(), theirs, atol=1e-5)
    assert sizes.tolist() == np.bincount(labels, minlength=6).tolist()


@given(images=st.integers(2, 25), captions=st.integers(1, 3), seed=st.integers(0, 999), data=st.data())
@settings(max_examples=40)
def test_each_pair_is_the_nearest_to_its_mean_of_those_whose_image_is_free(
    images: int, captions: int, seed: int, data: st.DataObject
) -> None:
    joint, pairs = make_joint(images, captions, seed), data.draw(st.integers(1, images))
    chosen = nearest_to_means(joint, pairs, seed).tolist()
    owner = joint.image_of_text
    assert len({int(owner[pair]) for pair in chosen}) == pairs
    rows, taken = joint_of(joint), torch.zeros(len(owner), dtype=torch.bool)
    means = torch.cat(cluster_means(joint, random_captions(owner, pairs, seed))[:2], dim=1).double()
    for pair in chosen:
        distances = torch.cdist(rows, means).square().masked_fill(taken[:, None], torch.inf)
        assert (distances[pair] <= distances.amin(0) + 1e-5).any()
        taken |= owner == owner[pair]


def test_clusters_that_lie_apart_have_a_pair_each() -> None:
    generator = torch.Generator().manual_seed(0)
    of = torch.arange(40).remainder(4)
    corners = torch.eye(4)
    image = to_sphere(corners[of] + 0.02 * torch.randn(40, 4, generator=generator))
    text = to_sphere(corners[of] + 0.02 * torch.randn(40, 4, generator=generator))
    joint = Joint(image, text, torch.arange(40))
    assert cluster_means(joint, torch.tensor([0, 1, 2, 3]))[2].tolist() == [10] * 4


def test_the_seed_chooses_what_clusters_grow_from() -> None:
    joint = make_joint(50, 2, 0)
    assert torch.equal(nearest_to_means(joint, 10, 3), nearest_to_means(joint, 10, 3))
    assert not torch.equal(nearest_to_means(joint, 10, 3), nearest_to_means(joint, 10, 4))


def test_every_selection_is_a_value_of_the_settings() -> None:
    assert list(get_args(Selection)) == list(SELECTIONS)
