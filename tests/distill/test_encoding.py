"""Pixels through the encoder and back, whether the batches' graphs are kept or made again."""

import pytest
import torch
from torch import nn

from raydd.distill import image_variables
from raydd.distill.image_variables import EncodedPixels, kept_bytes


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kept_bytes", [0, 30_000, 10**9])  # the first batch's graph, some batches', all
def test_gradient_is_that_of_one_graph(kept_bytes: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
    encoder.requires_grad_(False)
    pixels, used = torch.rand(9, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 4, 5, 6, 8])
    at_features = torch.randn(9, 5, dtype=torch.float64)
    leaf = pixels.clone().requires_grad_()
    features = encoder(leaf)
    (want,) = torch.autograd.grad(features[used], leaf, at_features[used])

    monkeypatch.setattr(image_variables, "KEPT_GRAPH_BYTES", kept_bytes)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        encoded = EncodedPixels(encoder, pixels, 2, used)
        kept = len(encoded._kept_batches)
        got = encoded.gradient(at_features)
    finally:
        torch.set_num_threads(before)
    assert kept == {0: 1, 30_000: 2, 10**9: 4}[kept_bytes]
    torch.testing.assert_close(encoded.features[used], features[used])
    torch.testing.assert_close(got, want)


def test_graphs_that_are_kept_follow_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_variables, "free_bytes", {"cuda": 80_000, "cuda:1": 24_000}.get)
    assert [kept_bytes(device) for device in ("cuda", "cuda:1", "cpu")] == [
        40_000,
        12_000,
        image_variables.KEPT_GRAPH_BYTES,
    ]


def test_as_many_graphs_are_kept_as_the_device_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).requires_grad_(False)
    kept = []
    for room in (0, 20_000, 40_000):
        monkeypatch.setattr(image_variables, "kept_bytes", {"cpu": room}.get)
        kept.append(len(EncodedPixels(encoder, torch.rand(8, 3, 8, 8), 2)._kept_batches))
    assert kept[0] == 1 < kept[1] < kept[2] <= 4


def test_pixels_that_are_not_learned_keep_no_graph() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).requires_grad_(False)
    graphs = list[bool]()

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        graphs.append(pixels.requires_grad)
        return encoder.to(pixels.device)(pixels)

    pixels = torch.rand(6, 3, 8, 8)
    encoded = EncodedPixels(encode, pixels, 2, learned=False)
    assert encoded._kept_batches == []
    torch.testing.assert_close(encoded.features.detach(), encoder(pixels))
    graphs.clear()
    EncodedPixels(encode, pixels.to("meta"), 2, learned=False)  # as on a GPU
    assert graphs == [False] * 3
