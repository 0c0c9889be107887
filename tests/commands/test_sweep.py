"""What `raydd sweep` returns to a script."""

import pytest

import raydd.sweep
from raydd.cli import main
from raydd.config import Config
from raydd.tuning.finals import Candidate
from raydd.tuning.results import SweepResult


@pytest.mark.parametrize(("failed_finals", "code"), [({}, 0), ({3: "ValueError: the disk of node 3"}, 1)])
def test_a_script_learns_that_all_finals_failed(monkeypatch: pytest.MonkeyPatch, failed_finals: dict, code: int):
    best = Candidate(3, {"distill.image_lr": 0.1}, 40.0)
    result = SweepResult("mine", Config(), ("r_mean",), {3: 40.0}, {}, {}, {}, (), best, (), {}, failed_finals)
    monkeypatch.setattr(raydd.sweep, "sweep", lambda *_, **__: result)
    assert main(["sweep"]) == code
