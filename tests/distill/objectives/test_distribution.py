"""Distribution matching against the formula written out."""

import math

import pytest
import torch
from small_distillations import begin, read
from small_pairs import Split

from raydd.distill.experts import Experts, Heads
from raydd.distill.legs import Leg
from raydd.distill.objectives.distribution import discrepancy, teacher


def test_the_discrepancy_is_the_root_of_three_means() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (3, 4))

    def mean(rows: torch.Tensor, columns: torch.Tensor) -> float:
        kernels = [math.exp(-float((u - v).square().sum()) / (2 * 0.5**2)) for u in rows for v in columns]
        return sum(kernels) / len(kernels)

    squared = mean(one, one) + mean(other, other) - 2 * mean(one, other)
    assert float(discrepancy(one, other)) == pytest.approx(math.sqrt(squared), rel=1e-9)
    assert float(discrepancy(one, one)) < 1e-5


def test_a_teacher_lies_between_an_experts_start_and_its_epoch(experts: Experts) -> None:
    start, end = experts.snapshot(1, 0), experts.snapshot(1, 2)
    for half, one, other in zip(teacher(Leg.between(start, end)), start, end, strict=True):
        torch.testing.assert_close(half.flat(), (one.flat() + other.flat()) / 2)


def test_steps_read_an_expert_once(train_split: Split, experts: Experts, monkeypatch: pytest.MonkeyPatch) -> None:
    read, snapshot = [], Experts.snapshot

    def noted(experts: Experts, expert: int, epoch: int) -> Heads:
        read.append((expert, epoch))
        return snapshot(experts, expert, epoch)

    monkeypatch.setattr(Experts, "snapshot", noted)
    run = begin(train_split, experts, objective="distribution", real_minibatch=64, steps=30)
    for _ in range(30):
        run.step()
    ends = [one for one in read if one[1]]
    assert sorted(ends) == [(expert, epoch) for expert in range(experts.count) for epoch in (1, 2)]
    assert len(read) == 2 * len(ends)


def test_real_pairs_themselves_are_nearer_than_shuffled_ones(train_split: Split, experts: Experts) -> None:
    run = begin(train_split, experts, objective="distribution", real_minibatch=64)
    pairs = run._current_pairs()
    parts = read(run.objective.draw(0)(pairs)).fractions
    shuffled = type(pairs).of({**pairs.tensors, "text": pairs.texts.roll(1, 0)}, pairs.similarity)
    others = read(run.objective.draw(0)(shuffled)).fractions
    assert parts.keys() == {"loss/contrast", "loss/sum", "loss/difference"}
    assert others["loss/contrast"] > parts["loss/contrast"]
