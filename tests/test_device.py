"""A card that is full is no broken one; and where a GPU rounds the products of float32: not in a distillation."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from small_distillations import begin
from small_pairs import RECIPE, make_split, open_experts, pairs
from torch import Tensor

from raydd.config import PlaceConfig, StudentsConfig
from raydd.data.encoders import TextEncoder
from raydd.data.encoding import encode_captions
from raydd.device import device_of, in_tf32, queue_copy
from raydd.distill import experts, heads_gradient
from raydd.errors import PlaceError
from raydd.evaluate import students


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


def test_encoders_round():
    seen = set[bool]()

    def encode(captions: Sequence[str]) -> Tensor:
        seen.add(rounds())
        return torch.zeros(len(captions), 4)

    list(encode_captions(TextEncoder("own", 4, "own", encode), ["a", "b"], [[0], [1]], device="cpu", workers=0))
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
