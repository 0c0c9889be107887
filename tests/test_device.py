"""A card that is full is no broken one; and where a GPU rounds the products of float32: not in a distillation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import tiny_encoders
import torch
from encoder_walks import SIDE, D, E, conv_net
from small_distillations import begin
from small_pairs import RECIPE, make_split, open_experts, pairs
from stage_settings import TINY
from torch import Tensor

import raydd
from raydd.config import ExpertsConfig, PlaceConfig, StudentsConfig
from raydd.data.encoders import load_text_encoder
from raydd.data.encoders.towers import NormalisedTower
from raydd.data.feature_rows import CaptionRows
from raydd.device import device_of, in_tf32, queue_copy
from raydd.distill import encoder_experts, experts, heads_gradient
from raydd.distill.encoder_passes import TrainedEncoder
from raydd.distill.encoder_student import Networks
from raydd.distill.heads import initial_head
from raydd.distill.image_variables import EncodedPixels
from raydd.distill.inversion import pixels_of_features
from raydd.errors import PlaceError
from raydd.evaluate import encoder_students, students
from raydd.settings import load


def rounds() -> bool:
    return torch.backends.cuda.matmul.allow_tf32


def recorded(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> set[bool]:
    """Record whether products are rounded when a function of a module is called."""
    function, seen = getattr(module, name), set[bool]()

    def recording(*arguments: object, **options: object) -> object:
        seen.add(rounds())
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, recording)
    return seen


def test_blocks_of_several_threads_leave_float32_in_the_end():
    """Batches of a CPU are encoded side by side, and the setting is that of the process."""
    first, second = in_tf32(), in_tf32()
    with first:
        second.__enter__()
    assert rounds()
    second.__exit__(None, None, None)
    assert not rounds()


def test_products_are_rounded_inside_the_block_alone():
    with in_tf32():
        assert rounds()
    assert not rounds()
    with pytest.raises(ZeroDivisionError), in_tf32():
        _ = 1 / 0
    assert not rounds()


def test_experts_round_and_the_students_of_a_distillation_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    of_experts = recorded(monkeypatch, experts, "sgd_step_")
    of_distillation = recorded(monkeypatch, heads_gradient, "to_sphere")
    split, made = make_split(20, seed=1), open_experts(tmp_path, count=1)
    experts.train_experts(made, [0], split, RECIPE, [1, 2], device="cpu")
    begin(split, made).step()
    assert of_experts == {True}
    assert of_distillation == {False}


def test_scored_students_round(monkeypatch: pytest.MonkeyPatch):
    seen = recorded(monkeypatch, students, "dropout_mask")
    students.train_students(pairs(6), StudentsConfig(epochs=1), width=4, temperature=0.1, seeds=[0])
    assert seen == {True}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 8 MiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    ],
)
def test_a_full_card_is_no_fault_of_driver_or_wheel(error: RuntimeError, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> Tensor:
        raise error

    monkeypatch.setattr(torch, "ones", full)
    with pytest.raises(PlaceError, match=r"^The GPU cuda:7 of .+ is full: .*`nvidia-smi`.*again\.$") as raised:
        device_of(PlaceConfig(device="cuda:7"))
    assert "wheel" not in str(raised.value)


class Recorded(torch.autograd.Function):
    """Pixels' means, which note whether products are rounded on the way forward and back."""

    seen: ClassVar[list[tuple[str, bool]]] = []

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        ctx.shape = pixels.shape
        Recorded.seen.append(("forward", rounds()))
        return pixels.mean((2, 3))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        Recorded.seen.append(("backward", rounds()))
        return gradients[0][:, :, None, None].expand(ctx.shape)


@pytest.fixture
def seen() -> list[tuple[str, bool]]:
    Recorded.seen.clear()
    return Recorded.seen


ROUNDED = {("forward", True), ("backward", True)}


def test_an_encoder_s_way_back_to_the_pixels_rounds_too(seen: list[tuple[str, bool]]):
    pixels = torch.rand(3, 3, 4, 4)
    with_graphs = EncodedPixels(Recorded.apply, pixels, 2)
    with_graphs.gradient(torch.ones(3, 3))
    assert set(seen) == ROUNDED
    seen.clear()
    pixels_of_features(pixels.mul(255).byte(), torch.rand(3, 3), Recorded.apply, steps=1, lr=0.1)
    assert set(seen) == ROUNDED


def test_experts_and_students_that_train_the_image_encoder_round(monkeypatch: pytest.MonkeyPatch):
    encoder = TrainedEncoder(conv_net(), at_once=2)
    networks = Networks.of(encoder.start, initial_head(E, D, torch.Generator()))
    texts, pixels = torch.zeros(4, E), torch.zeros(4, 3, SIDE, SIDE, dtype=torch.uint8)
    given = replace(pairs(4), text_features=texts, image_features=torch.zeros(4, D), pixels=pixels)
    seen = recorded(monkeypatch, encoder_experts, "project")
    batches = [(torch.arange(4), pixels)]
    recipe, rows = ExpertsConfig(dropout=0.0), CaptionRows((texts.half(),), 4)
    encoder_experts.train_epoch(encoder, networks, batches, rows, recipe, lr_multipliers=[1.0], seed=0, device="cpu")
    assert seen == {True}

    scored, seen = list[bool](), recorded(monkeypatch, encoder_students, "project")
    encoder_students.train_student(
        encoder, given, StudentsConfig(epochs=1), temperature=0.1, seed=0, on_epoch=lambda *_: scored.append(rounds())
    )
    assert seen == {True}
    assert scored == [False, False]  # students are ranked in float32


def test_every_caption_and_image_is_encoded_with_rounding(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    work = raydd.open(load(settings={**TINY, "data.root": str(tiny_data), "place.home": str(tmp_path)}))
    texts, images = set[bool](), set[bool]()
    tower = tiny_encoders.text(work.config.encoders, "cpu")

    def encode(captions: Sequence[str]) -> Tensor:
        texts.add(rounds())
        return tower.encode(captions)

    monkeypatch.setattr(tiny_encoders, "text", lambda config, device: replace(tower, encode=encode))
    monkeypatch.setattr(NormalisedTower, "forward", lambda self, pixels: images.add(rounds()) or self.tower(pixels))
    load_text_encoder(work.config.encoders).encode(["a dog"])  # as all commands do that encode captions
    work.encode_pixels(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    assert texts == images == {True}


def test_a_queued_copy_waits_for_its_own_work_alone(monkeypatch: pytest.MonkeyPatch):
    """A copy to pinned memory and an event after it; later work of the device is not waited for."""
    happened = list[str]()

    class Event:
        def record(self) -> None:
            happened.append("record")

        def synchronize(self) -> None:
            happened.append("wait")

    class OnGpu:
        device, shape, dtype = torch.device("cuda"), (2,), torch.float32

    class Pinned:
        def copy_(self, source: OnGpu, *, non_blocking: bool) -> None:
            happened.append(f"copy {non_blocking}")

    pinned, options = Pinned(), dict[str, object]()
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", lambda shape, **given: options.update(given) or pinned)
    on_gpu: Any = OnGpu()
    arrived = queue_copy(on_gpu)
    assert happened == ["copy True", "record"]
    assert arrived() is pinned
    assert happened[2:] == ["wait"]
    assert options == {"dtype": torch.float32, "pin_memory": True}
    assert torch.equal(queue_copy(torch.ones(2))(), torch.ones(2))
