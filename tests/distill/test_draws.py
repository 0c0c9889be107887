"""The draws of a step: the published minibatch rule, and that a step's draws depend on its number alone."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from raydd.config import DistillConfig
from raydd.distill.draws import draw_minibatches, draw_step, experts_at

SPREAD = (torch.ones(2, 3), torch.ones(2, 4))


@given(pairs=st.integers(2, 40), size=st.integers(1, 40), steps=st.integers(1, 12), seed=st.integers(0, 999))
@settings(max_examples=50)
def test_minibatches_of_one_permutation_do_not_overlap(pairs: int, size: int, steps: int, seed: int) -> None:
    size = min(size, pairs)
    drawn = draw_minibatches(pairs, size, steps, "permutations", Generator().manual_seed(seed))
    assert drawn.shape == (steps, size)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < pairs
    per_permutation = pairs // size
    for begin in range(0, steps, per_permutation):
        seen = drawn[begin : begin + per_permutation].flatten().tolist()
        assert len(set(seen)) == len(seen)


def test_the_published_case_takes_four_slices_then_a_new_permutation() -> None:
    drawn = draw_minibatches(99, 20, 8, "permutations", Generator().manual_seed(0))
    assert len(set(drawn[:4].flatten().tolist())) == 80
    assert len(set(drawn[4:].flatten().tolist())) == 80


def test_a_step_draws_the_same_again_and_another_step_another() -> None:
    config = DistillConfig(pairs=30, minibatch=5, student_steps=4, blend="noise", seed=3)
    one, again, other = (draw_step(config, step, 7, SPREAD) for step in (5, 5, 6))
    assert one.plan.ratios == again.plan.ratios
    assert torch.equal(one.plan.minibatches, again.plan.minibatches)
    assert one.plan.image_noise is not None
    assert again.plan.image_noise is not None
    assert torch.equal(one.plan.image_noise, again.plan.image_noise)
    assert not torch.equal(one.plan.minibatches, other.plan.minibatches)
    reseeded = draw_step(replace(config, seed=4), 5, 7, SPREAD)
    assert not torch.equal(one.plan.minibatches, reseeded.plan.minibatches)


def test_experts_and_start_epochs_are_all_drawn() -> None:
    config = DistillConfig(max_start_epoch=3)
    drawn = [draw_step(replace(config, seed=1), step, 4, SPREAD) for step in range(200)]
    assert {draws.expert for draws in drawn} == {0, 1, 2, 3}
    assert {draws.start_epoch for draws in drawn} == {0, 1, 2}


def test_experts_come_one_after_another_until_all_are_there() -> None:
    config = DistillConfig(steps=200, all_experts_at=50, seed=1)
    assert [experts_at(config, step, 10) for step in (0, 9, 10, 55, 89, 90, 100, 199)] == [1, 1, 2, 6, 9, 10, 10, 10]
    assert [experts_at(DistillConfig(steps=200), step, 10) for step in (0, 199)] == [10, 10]
    drawn = [draw_step(config, step, 10, SPREAD).expert for step in range(200)]
    assert all(expert < experts_at(config, step, 10) for step, expert in enumerate(drawn))
    assert set(drawn[100:]) == set(range(10))
