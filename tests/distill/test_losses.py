"""Losses against written-out loops and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydd.distill.losses import LOSSES, bce, info_nce, weighted_bce


def slow_weighted_bce(logits: Tensor, similarity: Tensor) -> float:
    sums, counts = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    for i in range(len(logits)):
        for j in range(len(logits)):
            p, s = 1 / (1 + math.exp(-float(logits[i, j]))), float(similarity[i, j])
            sums[s > 0.5] += -s * math.log(p + 1e-6) - (1 - s) * math.log(1 - p + 1e-6)
            counts[s > 0.5] += 1
    return sum(sums[kind] / (counts[kind] + 1e-6) for kind in (True, False)) / 2


@given(size=st.integers(1, 6), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_weighted_bce_equals_its_formula(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, size, generator=generator, dtype=torch.float64)
    similarity = 1.5 * torch.rand(size, size, generator=generator, dtype=torch.float64) - 0.2
    assert float(weighted_bce(logits, similarity)) == pytest.approx(slow_weighted_bce(logits, similarity), rel=1e-9)


def test_closed_forms() -> None:
    zeros, eye = torch.zeros(4, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    assert float(bce(zeros, eye)) == pytest.approx(math.log(2))
    assert float(info_nce(zeros, eye)) == pytest.approx(math.log(4))
    assert float(weighted_bce(zeros, eye)) == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_students_side_by_side_have_each_their_own_loss(name: str) -> None:
    logits, similarity = torch.randn(3, 5, 5), torch.eye(5)
    together = LOSSES[name](logits, similarity)
    assert together.shape == (3,)
    for student in range(3):
        torch.testing.assert_close(together[student], LOSSES[name](logits[student], similarity))


@pytest.mark.parametrize("name", LOSSES)
def test_images_and_texts_are_treated_alike(name: str) -> None:
    logits, similarity = torch.randn(5, 5), torch.rand(5, 5)
    torch.testing.assert_close(LOSSES[name](logits, similarity), LOSSES[name](logits.T, similarity.T))
