"""The measurement for a GPU, in its small form for a CPU: every piece has its numbers."""

import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import absolute
from bench.absolute import Options, main
from raydd.distill.population import News
from raydd.errors import NonFiniteError


@pytest.mark.slow
def test_every_piece_has_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(Options(device="cpu", small=True, json=str(tmp_path / "found.json"), threads=1))
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["small"], found["trials"], found["heads"]) == (True, 2, 256)
    pieces = found["pieces"]
    assert {"view, from its JPEG", "caption", "expert step", "feature step alone", "pixel step"} < set(pieces)
    for what, piece in pieces.items():
        assert piece["seconds"] > 0, what
        assert 0 < piece["busy"] < 1.5, what
        assert 0 < piece["launches"] < piece["operations"], what
    assert pieces["feature step of a trial of 2"]["waits"] == 0.5  # one for the steps of both, to be told of them
    # An epoch has two steps here. Of each expert its loss is read, and whether its snapshot is finite.
    assert pieces["expert step"]["waits"] == 1
    assert pieces["expert step of 8"]["waits"] == (1 + 8) / (2 * 8)
    assert {"2 experts to the store", "2 steps of inversion"} < set(pieces)
    assert "feature step alone" in capsys.readouterr().out


def test_a_distillation_that_ended_early_is_no_fast_one() -> None:
    absolute._require_done(News())
    with pytest.raises(NonFiniteError, match="Step 3"):
        absolute._require_done(News(error=NonFiniteError("Step 3: loss is nan.")))


def test_a_piece_is_freed_before_the_next_one_is_built() -> None:
    alive = []

    def build() -> absolute.Piece:
        assert not any(piece() for piece in alive)
        held = torch.ones(10)
        alive.append(weakref.ref(held))
        return lambda: held + 1, 1

    for name in ("one", "other"):
        assert absolute._measure_piece(name, build, 2, "cpu").operations == 1


def test_a_gpu_is_as_busy_as_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    class Profile:
        def __init__(self, activities: object) -> None:
            pass

        def __enter__(self) -> "Profile":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def key_averages(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(self_device_time_total=part) for part in (250_000.0, 500_000.0)]

    monkeypatch.setattr(absolute, "profile", Profile)
    assert absolute._kernel_seconds(lambda: None, "cpu") == 0.75
