"""Retrieval scores against counting by hand, slow loops, and what must hold for any scores."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix_scores import matrix_scores
from torch import Tensor

from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import KS, METRICS, Scores, chance, mean_and_std, retrieval_hits, retrieval_scores


def slow_scores(scores: Tensor, owner: Tensor) -> dict[str, float]:
    """Rank by rank, a tie counting against the right answer."""
    images, captions = scores.shape
    result = {}
    for k in KS:
        hits = 0
        for j in range(captions):
            right = scores[owner[j], j]
            before = sum(1 for i in range(images) if i != owner[j] and scores[i, j] >= right)
            hits += before < k
        result[f"IR@{k}"] = 100 * hits / captions
        hits = 0
        for i in range(images):
            right = max(scores[i, j] for j in range(captions) if owner[j] == i)
            hits += sum(1 for j in range(captions) if owner[j] != i and scores[i, j] >= right) < k
        result[f"TR@{k}"] = 100 * hits / images
    return result


@given(images=st.integers(2, 14), seed=st.integers(0, 10**6), levels=st.sampled_from([3, 1000]))
@settings(max_examples=40)
def test_scores_equal_slow_loops_with_ties_and_without(images: int, seed: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    owner = torch.cat([torch.arange(images), torch.randint(images, (images,), generator=generator)])
    owner = owner[torch.randperm(len(owner), generator=generator)]
    scores = torch.randint(levels, (images, len(owner)), generator=generator).double()
    found = matrix_scores(scores, owner)
    for metric, value in slow_scores(scores, owner).items():
        assert found[metric] == pytest.approx(value), metric


@given(seed=st.integers(0, 10**6), chunk=st.integers(1, 40))
@settings(max_examples=20)
def test_chunks_change_nothing_and_recall_grows_with_k(seed: int, chunk: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(15, 6, generator=generator, dtype=torch.float64)
    texts = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    owner = torch.arange(15).repeat(2)
    whole = retrieval_scores(images, texts, owner)
    hits = retrieval_hits(images, texts, owner)
    assert torch.equal(retrieval_hits(images, texts, owner, captions_at_once=chunk), hits)
    for side in ("IR", "TR"):
        assert whole[f"{side}@1"] <= whole[f"{side}@5"] <= whole[f"{side}@10"]
    order = torch.randperm(30, generator=generator)
    assert retrieval_scores(images, texts[order], owner[order]) == pytest.approx(whole)


def test_a_matrix_that_can_be_counted_by_eye() -> None:
    # 2 images, 4 captions, captions 0 and 1 of image 0: image 0 finds caption 2 first, image 1 finds its own.
    scores = torch.tensor([[0.1, 0.5, 0.9, 0.0], [0.2, 0.1, 0.8, 0.3]])
    found = matrix_scores(scores, torch.tensor([0, 0, 1, 1]))
    assert found["TR@1"] == 50
    assert found["IR@1"] == 50  # captions 1 and 3
    assert found["IR@5"] == found["TR@5"] == 100
    assert set(found) == set(METRICS)
    assert found["r_mean"] == pytest.approx((found["IR_mean"] + found["TR_mean"]) / 2)


@pytest.mark.parametrize("images", [4, 40])
def test_random_embeddings_score_at_chance(images: int) -> None:
    generator = torch.Generator().manual_seed(3)
    owners = torch.arange(images).repeat(2)
    scores = [
        retrieval_scores(
            torch.randn(images, 8, generator=generator), torch.randn(2 * images, 8, generator=generator), owners
        )["r_mean"]
        for _ in range(200)
    ]
    assert sum(scores) / len(scores) == pytest.approx(chance([2] * images), rel=0.08)


def test_chance_counts_every_caption_of_an_image() -> None:
    """All sets of K captions that random rankings may find, for images with 1, 2, 2 and 7 captions."""
    captions = [1, 2, 2, 7]
    owners = [image for image, count in enumerate(captions) for _ in range(count)]
    by_k = []
    for k in KS:
        found = [set(nearest) for nearest in itertools.combinations(owners, k)]
        by_k += [min(1.0, k / 4), sum(len(images) for images in found) / len(found) / 4]
    assert chance(captions) == pytest.approx(100 * sum(by_k) / len(by_k))
    assert chance([1, 1]) == pytest.approx(100 * (2 * 0.5 + 4) / 6)
    assert chance([5] * 500) == pytest.approx(1.0667, rel=0.01)


def test_nan_is_no_score() -> None:
    images, texts = torch.randn(3, 4), torch.randn(3, 4)
    images[1, 2] = torch.nan
    with pytest.raises(NonFiniteError, match="not finite"):
        retrieval_scores(images, texts, torch.arange(3))


def test_a_deviation_is_that_of_a_sample_and_0_for_one_seed():
    assert mean_and_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))
    assert mean_and_std([5.0]) == (5.0, 0.0)
    scores = Scores(tuple(dict.fromkeys(METRICS, value) for value in (1.0, 2.0, 6.0)))
    assert scores.as_json()["TR@5"] == {"mean": 3.0, "std": scores.std["TR@5"], "seeds": [1.0, 2.0, 6.0]}
