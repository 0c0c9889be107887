"""Products by oneDNN agree with torch's own, and so do their gradients of both orders."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raydd.distill.products import add_product_, linear, linear_of_students

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


@pytest.mark.parametrize("students", [(), (4,)])
def test_students_side_by_side_have_torchs_products_and_gradients(students: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    rows = torch.randn(*students, ROWS, NARROW, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, WIDE, NARROW, dtype=torch.float64, requires_grad=True)

    def gradients(product) -> tuple[Tensor, ...]:
        return torch.autograd.grad(product(rows, weight).tanh().sum(), (rows, weight))

    torch.testing.assert_close(linear_of_students(rows, weight), rows @ weight.mT)
    for got, want in zip(gradients(linear_of_students), gradients(lambda x, w: x @ w.mT), strict=True):
        torch.testing.assert_close(got, want)


def test_the_students_gradient_lies_as_their_weights_do() -> None:
    rows, weight = torch.randn(4, ROWS, NARROW), torch.randn(4, WIDE, NARROW, requires_grad=True)
    (gradient,) = torch.autograd.grad(linear_of_students(rows, weight).sum(), weight)
    assert gradient.is_contiguous()


def test_frozen_students_ask_for_no_gradient_of_their_weights() -> None:
    rows, weight = torch.randn(4, ROWS, NARROW, requires_grad=True), torch.randn(4, WIDE, NARROW)
    (gradient,) = torch.autograd.grad(linear_of_students(rows, weight).sum(), rows)
    torch.testing.assert_close(gradient, weight.sum(1, keepdim=True).expand(4, ROWS, NARROW))
