"""Images through a network on a GPU: what is copied there, and when it is waited for; `meta` stands for a GPU."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from bench.counting import count_operations
from raydd.data import encoding
from raydd.data.augment import transform_of
from raydd.data.encoding import ViewsOf, encode_views
from raydd.data.images import FileImage


class Means(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.dtype == torch.float32
        return pixels.mean((2, 3))


@pytest.fixture
def views(tmp_path: Any) -> ViewsOf:
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (8, 8), (50 * number, 0, 0)).save(files[-1])
    return ViewsOf([FileImage(file.name, str(file)) for file in files], transform_of("none", 8), 1, 0)


def test_bytes_are_copied_without_waiting_and_converted_there(views: ViewsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch of 8-bit numbers is queued, and so is the copy of its features, which is waited for a batch later."""
    happened: list[str] = []

    class Encoder(Means):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            happened.append(f"encode {len(pixels)}")
            return super().forward(pixels)

    def queue_copy(rows: torch.Tensor) -> Callable[[], torch.Tensor]:
        happened.append(f"copy {len(rows)}")

        def wait() -> torch.Tensor:
            happened.append(f"wait for {len(rows)}")
            return torch.zeros(rows.shape, dtype=rows.dtype)

        return wait

    monkeypatch.setattr(encoding, "queue_copy", queue_copy, raising=False)
    encoder: Any = SimpleNamespace(fast=Encoder())
    batches = [[0, 1], [2, 3], [4]]
    seen = count_operations(lambda: list(encode_views(encoder, views, batches, device="meta", workers=0)))
    begin = ["encode 2", "copy 2", "encode 2", "copy 2", "wait for 2"]
    assert happened == [*begin, "encode 1", "copy 1", "wait for 2", "wait for 1"]
    assert "copy to the device" not in seen.waits
    assert (seen.copies, seen.copied_bytes) == (3, 5 * 3 * 8 * 8)


def test_batches_of_a_gpu_arrive_in_their_order(views: ViewsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = SimpleNamespace(fast=Means())
    batches = [[4, 1], [0, 2], [3]]
    wanted = list(encode_views(encoder, views, batches, device="cpu", workers=0))
    monkeypatch.setattr(encoding, "_is_cpu", lambda device: False)
    found = list(encode_views(encoder, views, batches, device="cpu", workers=0))
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert list(encode_views(encoder, views, [], device="cpu", workers=0)) == []
