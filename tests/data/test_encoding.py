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
from raydd.data.encoders import TextEncoder
from raydd.data.encoding import ViewsOf, batches_of, captions_at_once, encode_captions, encode_views
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


def test_a_gpu_gets_captions_from_this_process_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers would only list the captions: the encoder tokenizes them where it is."""
    started = []
    loader = encoding.DataLoader
    monkeypatch.setattr(
        encoding, "DataLoader", lambda *given, **options: (started.append(options), loader(*given, **options))[1]
    )
    monkeypatch.setattr(encoding, "queue_copy", lambda rows: lambda: torch.zeros(rows.shape, dtype=rows.dtype))
    captions, device = ["a dog"] * 1100, "meta"
    encoder = TextEncoder("own", 4, "own", lambda items: torch.zeros(len(items), 4, device=device))
    batches = batches_of(range(len(captions)), captions_at_once("meta"))
    found = list(encode_captions(encoder, captions, batches, device="meta", workers=2))
    assert [len(features) for features in found] == [512, 512, 76]
    assert [(options["num_workers"], options["pin_memory"]) for options in started] == [(0, False)]
    device = "cpu"
    list(encode_captions(encoder, captions, [list(range(64))], device=device, workers=2))
    assert started[-1]["num_workers"] == 2
