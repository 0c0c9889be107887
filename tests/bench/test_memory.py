"""The peak of one side of a row, which a process of its own prints."""

import json

import pytest
import torch

from bench import rows
from bench.measuring import Pieces, memory_is_measurable
from bench.memory import main
from bench.rows import Row


@pytest.mark.skipif(not memory_is_measurable(), reason="this system tells no peak")
def test_the_peak_of_the_side_asked_for_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = Pieces({"large": lambda: torch.ones(50_000_000).sum(), "none": lambda: None}, {"large": 1}, {"none": 1})
    row = Row("row", "what", "baseline", floor=1, quick_floor=1, pieces=lambda size, folder: pieces)
    monkeypatch.setattr(rows, "ROWS", (row,))
    main("row", "baseline", str(torch.get_num_threads()))
    assert json.loads(capsys.readouterr().out) == pytest.approx(200e6, rel=0.1)
    main("row", "raydd", str(torch.get_num_threads()))
    assert json.loads(capsys.readouterr().out) < 50e6
