"""Students that step in place end where torch's autograd and SGD take them, each at its own learning rates."""

import math

import pytest
import torch
from torch import Generator, Tensor

from raydd.config import StudentsConfig
from raydd.distill.heads import Head, dropout_mask, embed, initial_heads
from raydd.distill.losses import find_loss
from raydd.evaluate.students import FIRST_SEED, TrainingPairs, rate_factors, train_at_multiples, train_students
from raydd.evaluate.trained_heads import Descent
from tests.evaluate.test_students import pairs

WIDTH, TEMPERATURE = 11, 0.1


def by_autograd(given: TrainingPairs, recipe: StudentsConfig, seed: int, multiple: float) -> list[Tensor]:
    """The parameters of both heads, trained as plainly as torch allows."""
    images, texts, similarity = given.image_features, given.text_features, given.similarity.matrix()
    sides = [[part.requires_grad_() for part in head] for head in initial_heads(9, 7, WIDTH, FIRST_SEED + seed)]
    rates = multiple * given.rate_image, multiple * given.rate_text
    groups = [{"params": side, "lr": rate} for side, rate in zip(sides, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    draws, masks = (Generator().manual_seed(FIRST_SEED + seed) for _ in range(2))
    size = min(recipe.batch_size, len(images))
    for factor in rate_factors(recipe):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        for _ in range(math.ceil(len(images) / size)):
            batch = torch.randperm(len(images), generator=draws)[:size]
            dropped = [dropout_mask((size, WIDTH), recipe.dropout, masks) for _ in range(2)]
            image, text = (
                embed(Head(*side), features[batch], mask)
                for side, features, mask in zip(sides, (images, texts), dropped, strict=True)
            )
            optimizer.zero_grad()
            find_loss(given.loss)(image @ text.T / TEMPERATURE, similarity[batch][:, batch]).backward()
            optimizer.step()
    return [part.detach() for side in sides for part in side]


# Of 6 pairs both first layers are spanned by them, of 8 the image side's alone, of 20 neither; 16 is more than a batch.
@pytest.mark.parametrize("count", [6, 8, 16, 20])
@pytest.mark.parametrize(
    "recipe",
    [
        StudentsConfig(epochs=3, batch_size=8),
        StudentsConfig(epochs=3, batch_size=5, momentum=0.0, weight_decay=0.3),
        StudentsConfig(epochs=3, batch_size=20, dropout=0.0, weight_decay=0.1, rate="published"),
    ],
)
def test_students_end_where_autograd_and_sgd_take_them(count: int, recipe: StudentsConfig) -> None:
    given = pairs(count)
    several = train_at_multiples(given, recipe, [0.5, 2.0], width=WIDTH, temperature=TEMPERATURE, seed=3)
    for heads, multiple in zip(several, (0.5, 2.0), strict=True):
        assert heads is not None
        for got, want in zip((*heads[0], *heads[1]), by_autograd(given, recipe, 3, multiple), strict=True):
            torch.testing.assert_close(got[0], want, rtol=1e-4, atol=2e-5)


def test_students_of_several_seeds_end_where_each_alone_does() -> None:
    recipe = StudentsConfig(epochs=4, batch_size=8)
    image, text = train_students(pairs(12), recipe, width=WIDTH, temperature=TEMPERATURE, seeds=[1, 4])
    for place, seed in enumerate((1, 4)):
        for got, want in zip((*image, *text), by_autograd(pairs(12), recipe, seed, 1.0), strict=True):
            torch.testing.assert_close(got[place], want, rtol=1e-4, atol=2e-5)


def test_one_student_that_diverges_leaves_the_others_as_they_are() -> None:
    recipe = StudentsConfig(epochs=4, batch_size=8)
    place = {"width": WIDTH, "temperature": TEMPERATURE, "seed": 0}
    wild, tame = train_at_multiples(pairs(12), recipe, [1e30, 1.0], **place)
    (alone,) = train_at_multiples(pairs(12), recipe, [1.0], **place)
    assert wild is None
    assert tame is not None
    assert alone is not None
    for got, want in zip((*tame[0], *tame[1]), (*alone[0], *alone[1]), strict=True):
        torch.testing.assert_close(got, want)


def test_scaled_descent_is_that_of_torch() -> None:
    rates = torch.tensor([[0.5], [2.0], [0.1], [0.1]], dtype=torch.double)
    descent = Descent.of(rates, 0.9, 0.2, "cpu")
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.2)
    scaled, total = torch.ones(1), torch.zeros(1)
    for step, gradient in enumerate((0.3, -0.2, 0.7, 0.1)):
        optimizer.param_groups[0]["lr"] = float(rates[step])
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        total = 0.9 * total + descent.scale[step] * gradient
        scaled = scaled + descent.down[step] * total
        torch.testing.assert_close(descent.scale[step + 1] * scaled, weight.detach())
