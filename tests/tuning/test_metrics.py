import re
from pathlib import Path

import pytest
from optuna.trial import TrialState

from raydd.cluster.trial_report import TrialReport
from raydd.tuning import metrics

BOARD = Path(__file__).parents[2] / "cluster/grafana.json"


@pytest.fixture
def shown(monkeypatch):
    """What Ray is told, by gauge and state."""
    shown = {}

    class Gauge:
        def __init__(self, name, description, labels):
            self.name, self.labels = name, labels

        def set(self, value, labels):
            assert set(labels) == set(self.labels)
            shown[(self.name.removeprefix("raydd_"), labels.get("state", ""))] = value

    monkeypatch.setattr(metrics, "Gauge", Gauge)
    return shown


def test_they_follow_the_trials(shown):
    now = [0.0]
    told = metrics.Metrics("small", {"complete": 1}, best=40.0, capacity=lambda: 2, clock=lambda: now[0])
    for number in range(1, 6):
        told.started(number, {})
    assert shown[("busy_share", "")] == 0.0
    now[0] = 10.0  # until here they waited for a machine
    told.began(1, "")
    told.began(2, "")
    assert shown[("busy_share", "")] == 1.0
    now[0] = 15.0
    told.ended(1, TrialState.COMPLETE, TrialReport(r_mean=45.0), "")
    told.ended(5, TrialState.FAIL, TrialReport(again=True), "PlaceError: memory ran out")  # it never began
    told.began(3, "")
    told.ended(3, TrialState.FAIL, TrialReport(), "ValueError: no")
    told.began(4, "")
    told.ended(4, TrialState.FAIL, TrialReport(again=True), "PlaceError: no answer")
    states = {state: value for (name, state), value in shown.items() if name == "trials"}
    assert states == {"complete": 2, "pruned": 0, "diverged": 0, "fail": 1, "running": 1}
    assert shown[("busy_share", "")] == 0.5
    assert shown[("best_r_mean", "")] == 45.0
    assert shown[("slot_seconds", "")] == 5.0 + 5.0  # of trial 1 and, so far, of trial 2


def test_trials_that_share_a_slot_take_its_seconds_once(shown):
    now = [0.0]
    told = metrics.Metrics("small", {}, best=None, capacity=lambda: 32, clock=lambda: now[0])
    for number in range(16):
        told.started(number, {})
        told.began(number, "slot a")
    now[0] = 10.0
    told.began(3, "slot b")  # it moved
    now[0] = 12.0
    for number in range(16):
        told.ended(number, TrialState.COMPLETE, TrialReport(r_mean=45.0), "")
    assert shown[("slot_seconds", "")] == 12.0 + 2.0


def test_the_board_asks_for_what_is_served():
    asked = set(re.findall(r"ray_(raydd_\w+)", BOARD.read_text()))
    assert asked == set(re.findall(r'Gauge\("(\w+)"', Path(metrics.__file__).read_text()))
