"""The outer-product walk against dense SGD through autograd, and against finite differences."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_distillations import read
from torch import Tensor

from raydd.distill.heads import Head, embed, head_size
from raydd.distill.heads_gradient import heads_gradient
from raydd.distill.legs import Leg
from raydd.distill.losses import LOSSES
from raydd.distill.matching import LearnedPairs, StudentRun
from raydd.distill.similarity import Similarity
from raydd.distill.student import StudentPlan

N, D_IMAGE, D_TEXT, D, T, B = 7, 5, 4, 6, 3, 3


def problem(seed: int, blended: bool) -> tuple[dict[str, Tensor], StudentPlan, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    variables = {
        "image": normal(N, D_IMAGE),
        "text": normal(N, D_TEXT),
        "similarity": torch.eye(N, dtype=torch.float64) + 0.1 * normal(N, N),
        "rate_image": torch.tensor(0.2, dtype=torch.float64),
        "rate_text": torch.tensor(0.3, dtype=torch.float64),
    }
    plan = StudentPlan(
        torch.stack([torch.randperm(N, generator=generator)[:B] for _ in range(T)]),
        torch.stack([torch.randperm(B, generator=generator) for _ in range(T)]),
        tuple(torch.rand(T, generator=generator).tolist()) if blended else (0.0,) * T,
    )
    flats = {
        "image_start": normal(head_size(D_IMAGE, D)) / 3,
        "image_target": normal(head_size(D_IMAGE, D)) / 3,
        "text_start": normal(head_size(D_TEXT, D)) / 3,
        "text_target": normal(head_size(D_TEXT, D)) / 3,
    }
    return variables, plan, flats


def heads_of(flats: dict[str, Tensor], name: str) -> Head:
    return Head.of_flat(flats[name], D_IMAGE if name.startswith("image") else D_TEXT, D)


def ours(
    variables: dict[str, Tensor], plan: StudentPlan, flats: dict[str, Tensor], exact: bool = True
) -> tuple[float, dict[str, Tensor]]:
    """The matching loss, and its gradient at each variable."""
    tensors = {
        "image": variables["image"],
        "text": variables["text"],
        "rates": torch.stack([variables["rate_image"], variables["rate_text"]]),
        "similarity.entries": variables["similarity"],
    }
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    pairs = LearnedPairs.of(leaves, Similarity("full", N, {"entries": leaves["similarity.entries"]}))
    start, target = (
        tuple(heads_of(flats, f"{side}_{end}") for side in ("image", "text")) for end in ("start", "target")
    )
    found = heads_gradient(StudentRun(plan, LOSSES["wbce"], 0.5, exact), Leg.between(start, target), pairs)
    image, text, rates, similarity = (found.gradients[name] for name in tensors)
    gradients = {"image": image, "text": text, "similarity": similarity}
    return read(found).loss, {**gradients, "rate_image": rates[0], "rate_text": rates[1]}


def dense(
    variables: dict[str, Tensor], plan: StudentPlan, flats: dict[str, Tensor], partners: Tensor | None = None
) -> Tensor:
    """The same loss with whole heads and their gradients, as the method is written down.

    `partners` [T B] are rows of the variables to blend with, in place of the plan's permuted pairs.
    """
    if partners is None:
        partners = plan.minibatches.gather(1, plan.permutations)
    image, text = flats["image_start"].requires_grad_(), flats["text_start"].requires_grad_()
    for index, partner, ratio in zip(plan.minibatches, partners, plan.ratios, strict=True):
        rows = [
            torch.lerp(variables[side][index], variables[side][partner], ratio if plan.sides in ("both", side) else 0.0)
            for side in ("image", "text")
        ]
        embeddings = embed(Head.of_flat(image, D_IMAGE, D), rows[0]), embed(Head.of_flat(text, D_TEXT, D), rows[1])
        loss = LOSSES["wbce"](embeddings[0] @ embeddings[1].T / 0.5, variables["similarity"][index][:, index])
        gradients = torch.autograd.grad(loss, (image, text), create_graph=True)
        image, text = image - variables["rate_image"] * gradients[0], text - variables["rate_text"] * gradients[1]
    fraction = 0
    for end, side in ((image, "image"), (text, "text")):
        start, target = flats[f"{side}_start"], flats[f"{side}_target"]
        fraction = fraction + (end - target).square().sum() / (start - target).square().sum()
    return torch.as_tensor(fraction)


@given(seed=st.integers(0, 10**6), blended=st.booleans())
@settings(max_examples=15)
def test_value_and_gradient_equal_those_of_dense_heads(seed: int, blended: bool) -> None:
    variables, plan, flats = problem(seed, blended)
    for variable in variables.values():
        variable.requires_grad_()
    (loss, gradients), expected_loss = ours(variables, plan, flats), dense(variables, plan, flats)
    assert loss == pytest.approx(float(expected_loss.detach()), rel=1e-10)
    expected = torch.autograd.grad(expected_loss, list(variables.values()))
    for name, wanted in zip(variables, expected, strict=True):
        torch.testing.assert_close(
            gradients[name], wanted, rtol=1e-8, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", ["image", "text", "similarity", "rate_image", "rate_text"])
def test_gradient_equals_finite_differences(name: str) -> None:
    variables, plan, flats = problem(3, blended=True)
    direction = torch.randn(variables[name].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    slope = float((ours(variables, plan, flats)[1][name] * direction).sum())
    step = 1e-5
    ends = [ours(variables | {name: variables[name] + sign * step * direction}, plan, flats)[0] for sign in (1, -1)]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_constant_memory_gradient_meets_the_exact_one_as_the_rate_falls() -> None:
    variables, plan, flats = problem(4, blended=True)
    errors = []
    for scale in (1.0, 0.1, 0.01):
        scaled = variables | {rate: variables[rate] * scale for rate in ("rate_image", "rate_text")}
        exact, stopped = (ours(scaled, plan, flats, exact=exact)[1]["image"] for exact in (True, False))
        errors.append(float((exact - stopped).norm() / exact.norm()))
    assert errors[0] > 1e-4
    assert errors[1] < 0.3 * errors[0]
    assert errors[2] < 0.3 * errors[1]


def test_noise_partners_take_the_place_of_other_pairs() -> None:
    variables, plan, flats = problem(6, blended=True)
    noise = [torch.randn(T, B, width, dtype=torch.float64) for width in (D_IMAGE, D_TEXT)]
    noisy = StudentPlan(plan.minibatches, plan.permutations, plan.ratios, noise[0], noise[1])
    as_pairs = {
        "image": torch.cat([variables["image"], noise[0].flatten(0, 1)]),
        "text": torch.cat([variables["text"], noise[1].flatten(0, 1)]),
    }
    # By hand: the noise rows are appended as pairs, and each step's partner points at its own.
    expected = dense(variables | as_pairs, plan, flats, partners=N + torch.arange(T * B).view(T, B))
    assert ours(variables, noisy, flats)[0] == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("sides", ["image", "text"])
def test_one_side_alone_can_be_blended(sides: Literal["image", "text"]) -> None:
    variables, plan, flats = problem(3, blended=True)
    plan = replace(plan, sides=sides)
    found = ours(variables, plan, flats)[0]
    assert found == pytest.approx(float(dense(variables, plan, flats)), rel=1e-9)
    assert found != pytest.approx(ours(variables, replace(plan, sides="both"), flats)[0], rel=1e-6)
