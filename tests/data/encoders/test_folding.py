import pytest
import timm
import torch
from timm.layers import std_conv
from torch import nn

from raydd.data.encoders.folding import folded


class Block(nn.Module):
    def __init__(self, *, honest: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.honest = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), honest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.norm(x if self.honest else x.relu()).flatten(1)


def block(*, honest: bool) -> nn.Module:
    made = Block(honest=honest)
    nn.init.normal_(made.norm.running_mean)
    nn.init.uniform_(made.norm.running_var, 0.5, 2)
    return made.eval().requires_grad_(False)


def test_folding_changes_nothing_but_the_graph() -> None:
    plain = block(honest=True)
    lean = folded(plain, 8)
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.allclose(lean(pixels), plain(pixels), atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in lean.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert not any(parameter.requires_grad for parameter in lean.parameters())


def test_neighbours_that_are_not_neighbours_in_the_graph_stay() -> None:
    plain = block(honest=False)
    assert folded(plain, 8) is plain


def test_a_network_without_batch_norms_is_given_back() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert folded(plain, 8) is plain


STANDARDISED = (std_conv.StdConv2d, std_conv.StdConv2dSame, std_conv.ScaledStdConv2d, std_conv.ScaledStdConv2dSame)


@pytest.mark.parametrize("kind", STANDARDISED)
@pytest.mark.parametrize(("side", "stride", "groups", "bias"), [(8, 2, 1, True), (9, 2, 3, False), (8, 1, 1, True)])
def test_standardised_weights_are_computed_once(
    kind: type[nn.Conv2d], side: int, stride: int, groups: int, bias: bool
) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(kind(3, 6, 3, stride=stride, groups=groups, bias=bias), nn.Flatten()).eval()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    plain.requires_grad_(False)
    lean = folded(plain, side)
    assert not isinstance(lean[0], kind)
    assert isinstance(plain[0], kind)
    pixels = torch.rand(2, 3, side, side)
    torch.testing.assert_close(lean(pixels), plain(pixels), rtol=1e-5, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in lean.parameters())


def test_nothing_of_nfnet_s_is_standardised_at_each_call() -> None:
    plain = timm.create_model("nfnet_l0", num_classes=0).eval().requires_grad_(False)
    lean = folded(plain, 64)
    assert any(isinstance(module, STANDARDISED) for module in plain.modules())
    assert not any(isinstance(module, STANDARDISED) for module in lean.modules())
    pixels = torch.randn(1, 3, 64, 64)
    assert (lean(pixels) - plain(pixels)).norm() < 1e-4 * plain(pixels).norm()
