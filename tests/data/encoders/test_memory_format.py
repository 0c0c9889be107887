import time

import pytest
import torch
from torch import nn

from raydd.config import EncodersConfig
from raydd.data.encoders import load_image_encoder, memory_format
from raydd.data.encoders.memory_format import fastest_memory_format


class Slow(nn.Module):
    """Sleeps in one of the two formats."""

    def __init__(self, slow_in: torch.memory_format) -> None:
        super().__init__()
        self.weight, self.slow_in, self.calls = nn.Parameter(torch.rand(2, 3, 4, 4)), slow_in, 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.weight.is_contiguous(memory_format=self.slow_in):
            time.sleep(0.02)
        return pixels


@pytest.mark.parametrize(
    ("slow_in", "chosen"),
    [(torch.contiguous_format, torch.channels_last), (torch.channels_last, torch.contiguous_format)],
)
def test_the_faster_format_is_taken_and_remembered(
    monkeypatch: pytest.MonkeyPatch, slow_in: torch.memory_format, chosen: torch.memory_format
) -> None:
    monkeypatch.setattr(memory_format, "_measured", {})
    module = Slow(slow_in)
    assert fastest_memory_format("slow", module, 4) == chosen
    assert module.weight.is_contiguous(memory_format=chosen)
    measured = module.calls
    assert fastest_memory_format("slow", module, 4) == chosen
    assert module.calls == measured


@pytest.mark.parametrize("trained", [False, True])
def test_a_gpu_has_frozen_encoders_in_channels_last_memory(trained: bool) -> None:
    config = EncodersConfig(image_weights="random:0", image_size=32)
    module = load_image_encoder(config, "meta", trained=trained).module  # `meta` stands for the GPU
    convolution = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last) is not trained
