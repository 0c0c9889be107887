"""The measuring itself: what is timed, what is added up, and what falls under a floor."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.__main__ import Options, measure
from bench.measuring import QUICK, Pieces, Size, median, memory_is_measurable, now, peak_bytes, time_pieces, total
from bench.rows import ROWS
from bench.rows.row import FASTER, WITHIN, Memory, Row


def busy(seconds: float) -> None:
    end = now("cpu") + seconds
    while now("cpu") < end:
        pass


PIECES = Pieces({"long": lambda: busy(0.04), "short": lambda: busy(0.004)}, {"long": 10}, {"short": 20})


def test_pieces_are_timed_and_added_up_by_their_numbers() -> None:
    rounds = time_pieces(PIECES, 3, "cpu")
    assert len(rounds) == 3
    assert median(rounds, "long") == pytest.approx(0.04, rel=0.3)
    ratios = [total(PIECES.baseline, seconds) / total(PIECES.raydd, seconds) for seconds in rounds]
    assert sorted(ratios)[1] == pytest.approx(5, rel=0.4)


def test_sleep_takes_time_on_the_wall_alone() -> None:
    pieces = Pieces({"sleep": lambda: time.sleep(0.05)}, {"sleep": 1}, {})
    assert median(time_pieces(pieces, 1, "wall"), "sleep") >= 0.05
    assert median(time_pieces(pieces, 1, "cpu"), "sleep") < 0.02


@pytest.mark.parametrize(("floor", "kept"), [(2.0, True), (50.0, False)])
def test_a_row_under_its_floor_is_seen(floor: float, kept: bool) -> None:
    row = Row("row", "what", "baseline", floor=floor, quick_floor=floor, pieces=lambda size, folder: PIECES)
    result = measure(row, Options(quick=True))
    assert result.kept is kept
    assert result.counts == {"baseline": {"long": 10}, "raydd": {"short": 20}}


def test_a_ratio_may_be_a_most() -> None:
    assert FASTER.holds(3, 2)
    assert not FASTER.holds(1, 2)
    assert WITHIN.holds(WITHIN.compute(1.0, 1.2), 1.5)
    assert not WITHIN.holds(WITHIN.compute(1.0, 2.0), 1.5)


@pytest.mark.skipif(not memory_is_measurable(), reason="this system tells no peak")
def test_peak_memory_is_what_a_piece_adds_at_most() -> None:
    pieces = Pieces({"large": lambda: torch.ones(50_000_000).sum(), "none": lambda: None}, {"large": 1}, {"none": 1})
    assert peak_bytes(pieces, "baseline") == pytest.approx(200e6, rel=0.1)
    assert peak_bytes(pieces, "raydd") < 50e6
    assert Memory(megabytes=500, share=0.5).holds(300, 100)
    assert not Memory(megabytes=500).holds(10, 600_000_000)
    assert not Memory(share=0.5).holds(300, 200)


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row.pieces], ids=lambda row: row.name)
def test_every_row_can_be_measured(row: Row, tmp_path: Path) -> None:
    tiny: Size = replace(QUICK, rounds=1, expert_batch=8, width=48, retrieval=(40, 200), selection=(5, 50))
    assert row.pieces is not None
    pieces = row.pieces(tiny, tmp_path)
    (seconds,) = time_pieces(pieces, 1, "cpu")
    assert all(total(pieces.side(side), seconds) > 0 for side in ("baseline", "raydd"))
