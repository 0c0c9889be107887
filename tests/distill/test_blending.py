"""Blending: what ratio 0 and 1 mean, and the law of the ratio."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from raydd.distill.blending import blend, draw_below, draw_ratio


@given(rows=st.integers(1, 6), ratio=st.floats(0, 1), seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_blend_equals_its_formula_row_by_row(rows: int, ratio: float, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    features = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    permutation = torch.randperm(rows, generator=generator)
    blended = blend(features, features[permutation], ratio)
    for row in range(rows):
        torch.testing.assert_close(blended[row], (1 - ratio) * features[row] + ratio * features[permutation[row]])


def test_ratio_0_is_the_pair_itself_and_ratio_1_its_partner() -> None:
    features, permutation = torch.randn(4, 3), torch.tensor([1, 2, 3, 0])
    assert torch.equal(blend(features, features[permutation], 0.0), features)
    assert torch.equal(blend(features, features[permutation], 1.0), features[permutation])


@pytest.mark.parametrize(("beta", "variance"), [(1.0, 1 / 12), (0.2, 1 / 5.6), (8.0, 1 / 68)])
def test_the_ratio_follows_beta(beta: float, variance: float) -> None:
    generator = Generator().manual_seed(0)
    drawn = torch.tensor([draw_ratio("beta", beta=beta, fixed=0, generator=generator) for _ in range(4000)])
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(drawn.var()) == pytest.approx(variance, rel=0.1)  # a² / ((2a)² (2a + 1))


def test_none_and_fixed_draw_nothing() -> None:
    generator = Generator().manual_seed(0)
    before = generator.get_state()
    assert draw_ratio("none", beta=1, fixed=0.3, generator=generator) == 0
    assert draw_ratio("fixed", beta=1, fixed=0.3, generator=generator) == 0.3
    assert torch.equal(generator.get_state(), before)


def test_a_ratio_is_drawn_from_the_generator_alone() -> None:
    def drawn(seed: int) -> list[float]:
        generator = Generator().manual_seed(seed)
        return [draw_ratio("beta", beta=1, fixed=0, generator=generator) for _ in range(3)]

    assert drawn(0) == drawn(0)
    assert len({*drawn(0), *drawn(1)}) == 6


def test_a_whole_number_below_a_limit_is_drawn_from_the_generator_alone() -> None:
    def drawn(seed: int) -> list[int]:
        generator = Generator().manual_seed(seed)
        return [draw_below(5, generator) for _ in range(60)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert set(drawn(0)) == set(range(5))
