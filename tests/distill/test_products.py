"""Products by oneDNN agree with torch's own, and so do their gradients of both orders."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raydd.distill import products
from raydd.distill.products import add_product_, add_products_of_students_, linear, linear_of_students, reduced

ROWS, NARROW, WIDE = 7, 33, 48


def given(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return tuple(torch.randn(shape, dtype=dtype) for shape in ((ROWS, NARROW), (WIDE, NARROW), (WIDE,)))  # type: ignore


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_product_is_torchs(transposed: bool, dtype: torch.dtype) -> None:
    rows, weight, bias = given(dtype)
    if transposed:
        rows, weight = rows.T.contiguous().T, weight.T.contiguous().T
    torch.testing.assert_close(linear(rows, weight, bias), F.linear(rows, weight, bias))
    torch.testing.assert_close(linear(rows, weight), rows @ weight.T)


def test_gradients_of_both_orders_are_torchs() -> None:
    rows, weight, bias = given()

    def gradients(product) -> tuple[Tensor, Tensor]:
        leaf = (rows / 10).requires_grad_()  # where tanh bends: saturated, its derivatives are what rounding left
        (first,) = torch.autograd.grad(product(leaf, weight, bias).tanh().sum(), leaf, create_graph=True)
        return first, torch.autograd.grad(first.square().sum(), leaf)[0]

    for got, want in zip(gradients(linear), gradients(F.linear), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6 * float(want.abs().max()))


def test_a_weight_that_asks_for_a_gradient_gets_it() -> None:
    rows, weight, bias = given()
    linear(rows, weight.requires_grad_(), bias).sum().backward()
    torch.testing.assert_close(weight.grad, rows.sum(0).expand_as(weight))


def test_product_is_added_in_place() -> None:
    rows, weight, _ = given()
    left = torch.randn(ROWS, WIDE)
    want = weight - 0.1 * left.T @ rows
    add_product_(weight, left, rows, -0.1)
    torch.testing.assert_close(weight, want)


@pytest.fixture(params=[False, True], ids=["as here", "all by onednn"])
def by_onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where oneDNN multiplies transposed matrices too."""
    if request.param:
        monkeypatch.setattr(products, "_ONEDNN_TRANSPOSED", products._ONEDNN)


@pytest.mark.usefixtures("by_onednn")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_students_side_by_side_have_torchs_products_and_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    rows, weight = torch.randn(4, ROWS, NARROW, dtype=dtype), torch.randn(4, WIDE, NARROW, dtype=dtype)
    at_output = torch.randn(4, ROWS, WIDE, dtype=dtype)
    torch.testing.assert_close(linear_of_students(rows, weight), rows @ weight.mT)
    torch.testing.assert_close(linear_of_students(rows[0], weight), rows[0] @ weight.mT)
    torch.testing.assert_close(linear_of_students(at_output, weight.mT), at_output @ weight)
    leaves = rows.requires_grad_(), weight.requires_grad_()
    found = torch.autograd.grad(linear_of_students(*leaves).sin().sum(), leaves)
    for got, want in zip(found, torch.autograd.grad((rows @ weight.mT).sin().sum(), leaves), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.usefixtures("by_onednn")
def test_products_of_students_are_added_in_place() -> None:
    torch.manual_seed(2)
    sums, left, right = torch.randn(4, WIDE, NARROW), torch.randn(4, ROWS, WIDE), torch.randn(4, ROWS, NARROW)
    want = 0.9 * sums + left.mT @ right
    add_products_of_students_(sums, left, right, decay=0.9)
    torch.testing.assert_close(sums, want)


def test_small_weights_and_those_of_other_precisions_stay_as_they_are() -> None:
    small, double = torch.randn(WIDE, NARROW), torch.randn(512, 512, dtype=torch.float64)
    assert reduced(small) is small
    assert reduced(double) is double


@pytest.mark.skipif(not products._BFLOAT16, reason="the processor does not multiply bfloat16")
def test_large_weights_are_rounded_and_so_are_products_with_them_of_all_orders() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(520, 512) / 20, torch.randn(520)
    rows, rounded = torch.randn(ROWS, 512), reduced(weight)
    assert rounded.dtype == torch.bfloat16

    def results(weight: Tensor) -> tuple[Tensor, ...]:
        leaf = rows.clone().requires_grad_()
        product = linear(leaf, weight, bias)
        (first,) = torch.autograd.grad(product.tanh().sum(), leaf, create_graph=True)
        return product.detach(), first.detach(), torch.autograd.grad(first.square().sum(), leaf)[0]

    for got, want in zip(results(rounded), results(weight), strict=True):
        assert got.dtype == torch.float32
        assert float((got - want).norm() / want.norm()) < 0.01  # bfloat16 has eight bits


@pytest.mark.skipif(not products._BFLOAT16, reason="the processor does not multiply bfloat16")
def test_products_that_move_large_weights_are_rounded_before_they_are_added() -> None:
    torch.manual_seed(0)
    weight, left, right = torch.randn(520, 512), torch.randn(ROWS, 520), torch.randn(ROWS, 512)
    want, alone, students = left.T @ right, weight.clone(), torch.stack([weight, weight])
    add_product_(alone, left, right, 0.5)
    add_products_of_students_(students, torch.stack([left, left]), torch.stack([right, right]), decay=2.0)
    for moved in ((alone - weight) / 0.5, *(students - 2 * weight)):
        assert 1e-4 < float((moved - want).norm() / want.norm()) < 0.01
