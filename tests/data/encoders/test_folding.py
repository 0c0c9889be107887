import torch
from torch import nn

from raydd.data.encoders.lean_graph import fold_batch_norms


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
    folded = fold_batch_norms(plain, 8)
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.allclose(folded(pixels), plain(pixels), atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_neighbours_that_are_not_neighbours_in_the_graph_stay() -> None:
    plain = block(honest=False)
    assert fold_batch_norms(plain, 8) is plain


def test_a_network_without_batch_norms_is_given_back() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert fold_batch_norms(plain, 8) is plain
