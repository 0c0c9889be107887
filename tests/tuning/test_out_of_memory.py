import os
import subprocess
import sys

import psutil
import pytest
from optuna.trial import TrialState

from raydd.tuning import study as studies

ROOM = 2 << 30  # bytes beside what is taken now, before Ray kills: Ray and three processes with any torch fit

DRIVER = """
import dataclasses, sys, time
from pathlib import Path

folder = Path(sys.argv[1])

def trial(given):
    from ray import tune
    from raydd.cluster.trial_report import TrialReport
    greedy, kept = folder / "greedy", []
    if given["number"] == 0 and not greedy.exists():
        greedy.touch()
        while True:
            kept.append(b"x" * (50 << 20))
            time.sleep(0.05)
    time.sleep(1)
    tune.report(TrialReport(step=1, steps=1, r_mean=1.0, record="synthetic/0").as_result())

from raydd.config import Config, SweepConfig
from raydd.cluster.environment import prepare_environment
prepare_environment("local")
from raydd.tuning import study as studies
from raydd.cluster.connect import cluster
from raydd.tuning.trials import run_trials
from search_spaces import Space

config = Config(sweep=SweepConfig(name="greedy", trials=4))
space = Space("greedy", lambda trial: {"distill.image_lr": trial.suggest_float("distill.image_lr", 0.1, 0.2)})
study = studies.open_study(config, space, f"sqlite:///{folder}/studies.db")
with cluster("local", folder):
    run_trials(trial, study, space, config.sweep, [], folder=str(folder / "tune"), capacity=lambda: 2)
"""


@pytest.mark.slow
@pytest.mark.alone
def test_trials_that_are_killed_for_memory_go_on_one_at_a_time(tmp_path):
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + ROOM) / memory.total
    limits = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env=os.environ | limits,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert driver.returncode == 0, driver.stderr
    assert "Memory ran out" in driver.stdout
    assert "at most 1 at once" in driver.stdout
    trials = studies.load_study("greedy", f"sqlite:///{tmp_path}/studies.db").trials
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == 4
    assert {studies.reason(trial) for trial in trials if trial.state == TrialState.FAIL} == {"interrupted"}
