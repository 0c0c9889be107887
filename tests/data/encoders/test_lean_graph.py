"""A frozen network's gradient at its images, with a small graph: the same numbers from less."""

import pytest
import torch
from torch import Tensor, nn

from bench.counting import count_operations
from raydd.cost.bytes import graph_bytes
from raydd.data.encoders.lean_graph import LeanGraph


def network(*, channels_last: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU6(inplace=True),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
        nn.Hardtanh(-1, 0.5),
        nn.Conv2d(16, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 1, bias=False),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return layers.to(memory_format=memory_format).requires_grad_(False)  # type: ignore[call-overload]


def output_and_gradient(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_()
    out = module(images)
    return out.detach(), torch.autograd.grad(out.square().sum(), images)[0]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_and_gradient_are_the_plain_networks(channels_last: bool, dtype: torch.dtype) -> None:
    plain = network(channels_last=channels_last).to(dtype)
    images = 9 * torch.randn(2, 3, 12, 12, dtype=dtype)
    want, got = output_and_gradient(plain, images), output_and_gradient(LeanGraph(plain), images)
    if channels_last:  # pointwise convolutions are products of matrices there
        torch.testing.assert_close(got[0], want[0])
    else:
        assert torch.equal(got[0], want[0])
    torch.testing.assert_close(got[1], want[1])
    assert bool(got[1].abs().sum() > 0)


def test_a_gpu_convolves_each_pixel_too() -> None:
    """Its own convolution is faster there than a product with a copy on both sides; `meta` stands for the GPU."""
    pixelwise = LeanGraph(nn.Conv2d(3, 4, 1).requires_grad_(False))
    images = torch.rand(2, 3, 12, 12).to(memory_format=torch.channels_last)
    for device, products in (("cpu", 2), ("meta", 0)):  # forward and backward
        counts = count_operations(lambda: output_and_gradient(pixelwise.to(device), images.to(device)))  # noqa: B023
        assert counts.operations["mm"] == products


def test_bounds_pass_no_gradient() -> None:
    for rectifier, values in ((nn.ReLU(), (-1.0, 0.0, 2.0)), (nn.ReLU6(), (-1.0, 0.0, 2.0, 6.0, 7.0, 0.5))):
        images = torch.tensor(values).view(-1, 3, 1, 1)
        want, got = (output_and_gradient(module, images) for module in (rectifier, LeanGraph(rectifier)))
        assert torch.equal(got[1], want[1])


def test_graph_is_smaller() -> None:
    plain = network()
    assert graph_bytes(LeanGraph(plain), 12) < 0.5 * graph_bytes(plain, 12)


def test_trained_weights_get_their_gradient() -> None:
    plain = network().requires_grad_(True)
    LeanGraph(plain)(torch.randn(1, 3, 12, 12, requires_grad=True)).sum().backward()
    assert all(parameter.grad is not None for parameter in plain.parameters())


def test_second_differentiation_is_refused() -> None:
    images = torch.randn(1, 3, 12, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(LeanGraph(network())(images).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
