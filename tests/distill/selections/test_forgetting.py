"""Forgetting: what counts as learned, how forgettings are counted, and in which order pairs are taken."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydd.distill.selections import Forgetting
from raydd.distill.selections.forgetting import count_forgetting, least_forgotten, ranked_first


def test_a_pair_is_learned_when_it_ranks_first_both_ways() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.5, 2.5], [0.0, 1.0, 2.0]])
    # The second ties in its row; the third is beaten in its column.
    assert ranked_first(logits).tolist() == [True, False, False]


@given(seed=st.integers(0, 999), size=st.integers(2, 6), rounds=st.integers(1, 12))
@settings(max_examples=60)
def test_forgettings_are_the_loop_s(seed: int, size: int, rounds: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    seen = [
        (torch.randperm(6, generator=generator)[:size], torch.rand(size, generator=generator) < 0.5)
        for _ in range(rounds)
    ]
    counted = count_forgetting(6, seen)
    for pair in range(6):
        history = [bool(learned[batch == pair]) for batch, learned in seen if (batch == pair).any()]
        assert int(counted.events[pair]) == sum(a and not b for a, b in itertools.pairwise(history))
        assert bool(counted.learned[pair]) == any(history)


def test_the_least_forgotten_go_first_and_the_never_learned_last() -> None:
    forgotten = Forgetting(
        torch.tensor([3, 0, 1, 0, 0, 2], dtype=torch.int16),
        torch.tensor([True, False, True, True, True, True]),
    )
    chosen = least_forgotten(forgotten, torch.arange(6), 6, seed=0).tolist()
    assert set(chosen[:2]) == {3, 4}
    assert chosen[2:] == [2, 5, 0, 1]


def test_an_image_gives_its_least_forgotten_caption_once() -> None:
    forgotten = Forgetting(torch.tensor([2, 1, 5, 4], dtype=torch.int16), torch.ones(4, dtype=torch.bool))
    assert least_forgotten(forgotten, torch.tensor([0, 0, 1, 1]), 2, seed=0).tolist() == [1, 3]


def test_equal_pairs_are_drawn_by_seed() -> None:
    forgotten = Forgetting(torch.zeros(50, dtype=torch.int16), torch.ones(50, dtype=torch.bool))
    drawn = [tuple(least_forgotten(forgotten, torch.arange(50), 5, seed).tolist()) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
