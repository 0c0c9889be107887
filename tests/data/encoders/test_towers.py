import torch
from torch import nn

from raydd.data.encoders.towers import NormalisedTower, pool


def test_pixels_are_normalised_inside_the_graph() -> None:
    tower = NormalisedTower(nn.Flatten(), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    pixels = torch.rand(2, 3, 4, 4, requires_grad=True)
    out = tower(pixels).view(2, 3, 4, 4)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)]):
        assert torch.allclose(out[:, channel], (pixels[:, channel] - mean) / std)
    (gradient,) = torch.autograd.grad(out.sum(), pixels)
    assert torch.allclose(gradient[0, :, 0, 0], torch.tensor([2.0, 1.0, 0.5]))


def test_pooling_leaves_padding_out() -> None:
    states = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [4.0], [6.0]]])
    attended = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, attended, "mean").flatten().tolist() == [2.0, 4.0]
    assert pool(states, attended, "cls").flatten().tolist() == [1.0, 2.0]
