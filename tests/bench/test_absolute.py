"""The measurement for a GPU, in its small form for a CPU: every piece has its numbers."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import absolute
from bench.absolute import Options, main


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
    assert pieces["expert step"]["waits"] == 0.5  # one an epoch, of two steps here
    assert "feature step alone" in capsys.readouterr().out


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
