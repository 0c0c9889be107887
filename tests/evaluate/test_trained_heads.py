"""Students that step in place end where torch's autograd and SGD take them, each at its own learning rates."""

import math
from dataclasses import replace

import pytest
import torch
from small_pairs import pairs
from torch import Generator, Tensor

from raydd.config import StudentsConfig
from raydd.distill.heads import Head, dropout_mask, embed, initial_heads
from raydd.distill.losses import find_loss
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.students import FIRST_SEED, rate_factors, train_at_multiples, train_students
from raydd.evaluate.trained_heads import Descent, _Dense, _Spanned

WIDTH, TEMPERATURE = 11, 0.1


def by_autograd(
    given: SyntheticSet, recipe: StudentsConfig, seed: int, multiple: float, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """The parameters of both heads, trained as plainly as torch allows."""
    images, texts, similarity = (
        part.to(dtype) for part in (given.image_features, given.text_features, given.similarity.matrix())
    )
    start = initial_heads(9, 7, WIDTH, FIRST_SEED + seed)
    sides = [[part.to(dtype).requires_grad_() for part in head] for head in start]
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
                embed(Head(*side), features[batch], None if mask is None else mask.to(dtype))
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


# Momentum, weight decay and learning rate. Without gradients, weights swing through zero under all but the first.
RATES = [(0.9, 5e-3, 0.1), (0.9, 5e-3, 1.07), (0.9, 2e-2, 1.07), (0.9, 5e-3, 4.0), (0.0, 0.5, 2.0)]


@pytest.mark.parametrize(("momentum", "weight_decay", "rate"), RATES)
@pytest.mark.parametrize("layer_type", [_Dense, _Spanned])
def test_layers_take_the_steps_of_torch_for_hundreds_of_steps(
    layer_type: type[_Dense | _Spanned], momentum: float, weight_decay: float, rate: float
) -> None:
    """The gradients at the layer's output are given; the loss's own would let rounding grow from step to step."""
    generator, steps, pair_count = Generator().manual_seed(0), 600, 5
    features, start = torch.randn(pair_count, 8, generator=generator), torch.randn(2, 4, 8, generator=generator)
    rates = torch.tensor([rate, 0.7 * rate], dtype=torch.double).repeat(steps, 1)
    rates[steps // 2 :] *= 0.1
    descent, layer = Descent.of(rates, momentum, weight_decay, "cpu"), layer_type(start.clone(), features)
    single, double = (list(start.to(dtype, copy=True)) for dtype in (torch.float32, torch.float64))
    optimizers = [
        torch.optim.SGD(
            [{"params": [weight]} for weight in weights], lr=0.1, momentum=momentum, weight_decay=weight_decay
        )
        for weights in (single, double)
    ]
    for step in range(steps):
        batch = torch.stack([torch.randperm(pair_count, generator=generator)[:2] for _ in range(2)])
        layer.forward(batch, descent.scales(step))
        at_output = torch.randn(2, 2, 4, generator=generator)
        layer.step(at_output, descent.step(step))
        gradients = at_output.double().mT @ features[batch].double()
        for optimizer in optimizers:
            for group, lr, gradient in zip(optimizer.param_groups, rates[step], gradients, strict=True):
                group["lr"] = float(lr)
                group["params"][0].grad = gradient.to(group["params"][0])
            optimizer.step()
        weight = layer.weight(descent.scales(step + 1))
        for wanted in (torch.stack(single), torch.stack(double)):
            assert (weight - wanted).norm() < 1e-5 * wanted.norm()


# Pairs, minibatch, learning rate times 1/(1 - momentum) and weight decay of students that plain SGD trains.
TRAINABLE = [(99, 128, 1.07, 5e-3), (99, 8, 1.07, 2e-2), (99, 8, 4.0, 5e-3), (1999, 128, 1.07, 5e-3)]


@pytest.mark.parametrize(("count", "minibatch", "rate", "weight_decay"), TRAINABLE)
def test_students_train_where_plain_sgd_trains(count: int, minibatch: int, rate: float, weight_decay: float) -> None:
    """Rounding grows in steps this large, so float32 and float64 end elsewhere; but all of them learn alike."""
    given = replace(pairs(count), rate_image=10 * rate, rate_text=10 * rate)
    recipe = StudentsConfig(batch_size=minibatch, weight_decay=weight_decay)
    early = replace(recipe, epochs=3)
    exact, rounded = (by_autograd(given, early, 0, 1.0, dtype) for dtype in (torch.float64, torch.float32))
    image, text = train_students(given, early, width=WIDTH, temperature=TEMPERATURE, seeds=[0])
    for got, want, plain in zip((*image, *text), exact, rounded, strict=True):
        assert (got[0] - want).norm() <= 10 * (plain - want).norm() + 1e-5 * want.norm()
    image, text = train_students(given, recipe, width=WIDTH, temperature=TEMPERATURE, seeds=[0])
    plain = by_autograd(given, recipe, 0, 1.0)
    own_loss = loss_of(given, Head(*(part[0] for part in image)), Head(*(part[0] for part in text)))
    assert own_loss < 2 * loss_of(given, Head(*plain[:6]), Head(*plain[6:]))


def loss_of(given: SyntheticSet, image: Head, text: Head) -> float:
    """The loss of all pairs."""
    logits = embed(image, given.image_features) @ embed(text, given.text_features).T / TEMPERATURE
    return float(find_loss(given.loss)(logits, given.similarity.matrix()))
