"""Gradient matching: the angle is that of a student's first step."""

import pytest
import torch
from small_distillations import begin, read
from small_pairs import IMAGE_WIDTH, TEXT_WIDTH, WIDTH, Split

from raydd.distill.experts import Experts, contrastive_loss
from raydd.distill.heads import Head, embed, initial_heads
from raydd.distill.objectives.gradient import _FIRST_FRESH_SEED


def test_the_loss_is_one_minus_the_cosine_of_both_gradients(train_split: Split, experts: Experts) -> None:
    run = begin(train_split, experts, objective="gradient", similarity="identity", real_minibatch=20, seed=1)
    pairs, real = run._current_pairs(), run.objective.real  # type: ignore[attr-defined]
    seed = 1_000_003 + 4
    drawn = initial_heads(IMAGE_WIDTH, TEXT_WIDTH, WIDTH, _FIRST_FRESH_SEED + seed)
    image, text = (Head(*(part.requires_grad_() for part in head)) for head in drawn)

    def gradients(images: torch.Tensor, texts: torch.Tensor) -> list[torch.Tensor]:
        loss = contrastive_loss(embed(image, images) @ embed(text, texts).T / 0.07)
        found = torch.autograd.grad(loss, (*image, *text))
        return [torch.cat([part.flatten() for part in side]) for side in (found[:6], found[6:])]

    theirs = gradients(*real.minibatch(20, torch.Generator().manual_seed(seed)))
    ours = gradients(pairs.images.detach(), pairs.texts.detach())
    found = read(run.objective.draw(4)(pairs))
    for side, one, other in zip(("image", "text"), ours, theirs, strict=True):
        wanted = 1 - float(torch.cosine_similarity(one, other, dim=0))
        assert found.fractions[f"loss/{side}"] == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert found.loss == pytest.approx(sum(found.fractions.values()), rel=1e-5)


def test_each_step_draws_other_heads(train_split: Split, experts: Experts) -> None:
    run = begin(train_split, experts, objective="gradient")
    losses = {read(run.objective.draw(step)(run._current_pairs())).loss for step in (0, 1, 0)}
    assert len(losses) == 2
