"""Protocol A's gradient against finite differences and against the unrolled one, in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from encoder_walks import Problem, attention_net, problem, with_variable
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.counting import count_operations
from raydd.distill import encoder_gradient, legs
from raydd.distill.encoder_student import Networks
from raydd.distill.matching import LearnedPairs, StepLoss
from raydd.errors import NonFiniteError

SIGLIP = "docs/examples/own_loss.py:LOSS"
SWITCHES: list[dict[str, Any]] = [
    {},
    {"loss": "infonce", "kind": "identity", "blended": False},
    {"loss": "bce", "kind": "full", "merged": True},
    {"matched": ("text",)},
    {"loss": SIGLIP},
    {"net": attention_net},
]
# With the names of functions, not their addresses, which differ between processes.
NAMES = [", ".join(f"{name} {getattr(value, '__name__', value)}" for name, value in one.items()) for one in SWITCHES]


def unrolled(given: Problem, stops: list[Networks] | None = None) -> StepLoss:
    at = {name: value.detach().clone().requires_grad_() for name, value in given.pairs.tensors.items()}
    with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice
        loss = given.unrolled(LearnedPairs.of(at, given.pairs.similarity), stops)
    gradients = torch.autograd.grad(loss, list(at.values()), materialize_grads=True)
    return StepLoss(float(loss), {}, [], dict(zip(at, gradients, strict=True)))


def assert_equal(got: StepLoss, wanted: StepLoss) -> None:
    assert got.loss == pytest.approx(wanted.loss, rel=1e-12)
    assert got.gradients.keys() == wanted.gradients.keys()
    for name, gradient in got.gradients.items():
        torch.testing.assert_close(
            gradient, wanted.gradients[name], rtol=1e-8, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("switches", SWITCHES, ids=NAMES)
def test_the_exact_gradient_is_the_unrolled_one(switches: dict[str, Any]) -> None:
    given = problem(**switches)
    assert_equal(given.matching(), unrolled(given))


@pytest.mark.parametrize("switches", SWITCHES, ids=NAMES)
def test_the_constant_memory_gradient_is_the_unrolled_one_of_a_walk_with_stops(switches: dict[str, Any]) -> None:
    given = problem(**switches, exact=False)
    assert_equal(given.matching(), unrolled(given, stops=[]))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", ["image", "text", "rates", "similarity.diagonal", "similarity.right", "loss.bias"])
def test_the_gradient_equals_finite_differences(name: str, exact: bool) -> None:
    given = problem(exact=exact, loss=SIGLIP if name == "loss.bias" else "wbce")
    value = given.pairs.tensors[name]
    direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    slope = float((given.matching().gradients[name] * direction).sum())
    stops: list[Networks] = []
    given.unrolled(stops=stops)
    step = 1e-5

    def loss(sign: int) -> float:
        pairs = with_variable(given.pairs, name, value + sign * step * direction)
        return float(given.unrolled(pairs, None if exact else stops).detach())

    assert slope == pytest.approx((loss(1) - loss(-1)) / (2 * step), rel=1e-6)


def test_the_two_gradients_differ_and_meet_as_the_rates_fall() -> None:
    errors = []
    for scale in (1.0, 0.1, 0.01):
        given = problem()
        given = replace(given, pairs=replace(given.pairs, rates=given.pairs.rates * scale))
        exact = given.matching().gradients["image"]
        stopped = replace(given, run=replace(given.run, exact=False)).matching().gradients["image"]
        errors.append(float((exact - stopped).norm() / exact.norm()))
    assert errors[0] > 1e-4
    assert errors[1] < 0.3 * errors[0]
    assert errors[2] < 0.3 * errors[1]


@pytest.mark.parametrize("exact", [True, False])
def test_images_some_at_a_time_give_the_same(exact: bool) -> None:
    one, other = problem(exact=exact).matching(), problem(exact=exact, at_once=3).matching()
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, other.gradients[name], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("exact", "waits"), [(True, 3), (False, 4)])
def test_a_student_step_takes_few_operations_and_waits(exact: bool, waits: int) -> None:
    for steps in (3, 6):
        seen = count_operations(problem(exact=exact, steps=steps).matching)
        assert seen.total <= 300 + 1_450 * steps
        assert seen.waits.total() <= 6 + waits * steps


def test_an_expert_that_stood_still_is_refused() -> None:
    given = problem()
    with pytest.raises(NonFiniteError, match=r"larger experts\.lr"):
        replace(given, target=given.start).matching()


def test_a_walk_is_kept_on_the_gpu_where_a_quarter_of_its_memory_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    networks, walk = Networks({"weight": torch.zeros(10, 25)}, {"bias": torch.zeros(6)}), 8 * 1024  # bytes of 8 steps
    free = {"cuda": 4 * walk, "cuda:1": 4 * walk - 4, "cpu": 0}
    monkeypatch.setattr(legs, "free_bytes", free.get)
    kept = {device: encoder_gradient.weights_device(networks, 8, device) for device in free}
    assert kept == {"cuda": "cuda", "cuda:1": "cpu", "cpu": "cpu"}
