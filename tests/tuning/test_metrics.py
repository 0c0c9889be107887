import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray
from optuna.trial import TrialState

from raydd.cluster.trial_report import TrialReport
from raydd.tuning.metrics import Metrics

BOARD = Path(__file__).parents[2] / "cluster/grafana.json"


@pytest.fixture
def metrics(ray_here):
    now = [0.0]
    metrics = Metrics("small", {"complete": 1}, best=40.0, room=lambda: 2, clock=lambda: now[0])
    metrics.started(1, {})
    metrics.started(2, {})
    now[0] = 5.0
    metrics.ended(1, TrialState.COMPLETE, TrialReport(r_mean=45.0), "")
    metrics.started(3, {})
    metrics.ended(3, TrialState.FAIL, TrialReport(), "ValueError: no")
    return metrics


@pytest.mark.slow
def test_ray_serves_them_to_prometheus(metrics):
    port = ray.nodes()[0]["MetricsExportPort"]
    wanted = {"complete": 2, "fail": 1, "running": 1, "pruned": 0}
    end = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            served = answer.read().decode()
        rows = dict(re.findall(r'^ray_raydd_trials\{.*?state="(\w+)".*\} (\S+)$', served, re.MULTILINE))
        if rows and {state: float(rows[state]) for state in wanted} == wanted:
            break
        assert time.monotonic() < end, [row for row in served.splitlines() if "raydd" in row]
        time.sleep(1)
    for name, value in (("busy_share", 0.5), ("best_r_mean", 45.0), ("slot_seconds", 5.0)):
        assert float(re.search(rf"^ray_raydd_{name}\{{.*\}} (\S+)$", served, re.MULTILINE)[1]) == value


def test_the_board_asks_for_what_is_served():
    code = Path(Metrics.__init__.__code__.co_filename).read_text()
    asked = set(re.findall(r"ray_(raydd_\w+)", BOARD.read_text()))
    assert asked == set(re.findall(r'Gauge\("(\w+)"', code))
