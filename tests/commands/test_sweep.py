"""What `raydd sweep` returns to a script."""

from pathlib import Path

import pytest

import raydd.sweep
from raydd.cli import main
from raydd.config import Config
from raydd.tuning.finals import Candidate
from raydd.tuning.results import SweepResult


def test_flags_that_each_do_something_else_are_refused_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = ["--place.home", str(tmp_path)]
    assert main(["sweep", "--enqueue", "trials.yaml", "--dry-run", *place]) == 2
    assert "--enqueue and --dry-run are given together" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("failed_finals", "code"), [({}, 0), ({3: "ValueError: the disk of node 3"}, 1)])
def test_a_script_learns_that_all_finals_failed(monkeypatch: pytest.MonkeyPatch, failed_finals: dict, code: int):
    best = Candidate(3, {"distill.image_lr": 0.1}, 40.0)
    result = SweepResult("mine", Config(), ("r_mean",), {3: 40.0}, {}, {}, {}, (), best, (), {}, failed_finals)
    monkeypatch.setattr(raydd.sweep, "sweep", lambda *_, **__: result)
    assert main(["sweep"]) == code
