import logging
from pathlib import Path
from typing import Never

import pytest
import torch
from stage_settings import TINY

import raydd
from raydd.distill import legs
from raydd.errors import ConfigError
from raydd.protocols import Workbench, heads
from raydd.settings import load
from raydd.stages import distilling, matching
from raydd.stages.oom_retry import empty_cache, within_memory
from raydd.store import Store

MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4.00 GiB of which 1 is free."


def work_that_fits(most: int, tried: list[int]):
    def run(work: Workbench):
        size = work.config.place.encode_batch
        tried.append(size)
        yield "half-way"
        if size > most:
            raise torch.OutOfMemoryError(MESSAGE)
        yield "done"

    return run


def test_what_fits_runs_once():
    tried: list[int] = []
    assert list(
        within_memory(work_that_fits(64, tried), raydd.open(load(settings={"place.device": "cpu"}), Store("unused")))
    ) == ["half-way", "done"]
    assert tried == [64]


def test_what_does_not_fit_goes_on_with_half_and_says_so(caplog: pytest.LogCaptureFixture):
    tried: list[int] = []
    with caplog.at_level(logging.WARNING):
        assert list(
            within_memory(
                work_that_fits(32, tried), raydd.open(load(settings={"place.device": "cpu"}), Store("unused"))
            )
        ) == ["half-way", "half-way", "done"]
    assert tried == [64, 32]
    assert "with 64 images at once (Tried to allocate 2.00 GiB" in caplog.text
    assert "Continuing with 32" in caplog.text


@pytest.mark.parametrize(
    ("images", "fails_in", "tries"),
    [
        ("features", "steps", 1),
        ("pixels", "steps", 2),
        ("features-then-pixels", "steps", 1),
        ("features-then-pixels", "pixels", 2),
        ("features", "features", 2),
    ],
)
def test_smaller_batches_are_tried_only_where_images_are_encoded(
    tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch, images: str, fails_in: str, tries: int
) -> None:
    work = raydd.open(load(settings={**TINY, "data.root": str(tiny_data), "distill.images": images}), store)
    tried = list[int]()

    def failing(*_: object) -> Never:
        tried.append(0)
        raise torch.OutOfMemoryError(MESSAGE)

    owner, name = {
        "steps": (matching, "steps_of"),
        "pixels": (distilling, "invert_features"),
        "features": (heads, "encode_images"),
    }[fails_in]
    monkeypatch.setattr(owner, name, failing)
    words = "32 images at once too" if tries == 2 else "while features were distilled"
    with pytest.raises(ConfigError, match=f"Out of GPU memory .*{words}.*Tried to allocate"):
        list(distilling.distill(work))
    assert len(tried) == tries


def test_what_does_not_fit_by_half_ends_with_its_numbers():
    tried: list[int] = []
    with pytest.raises(ConfigError, match=r"32 images at once too.*GB in use.*Tried to allocate 2\.00 GiB"):
        list(
            within_memory(work_that_fits(8, tried), raydd.open(load(settings={"place.device": "cpu"}), Store("unused")))
        )
    assert tried == [64, 32]


def test_memory_that_is_given_back_includes_the_experts_legs(monkeypatch: pytest.MonkeyPatch):
    given_back = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(legs.shared_legs.cache_info().currsize))
    legs.shared_legs("cpu")
    empty_cache("cuda")
    assert given_back == [0]
