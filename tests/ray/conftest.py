import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raydd.cluster.environment import prepare_environment
from raydd.presets import PRESETS

prepare_environment("local")  # before any test imports ray

from local_ray import ray_here  # noqa: E402, F401
from postgres import postgres  # noqa: E402, F401
from s3_server import s3  # noqa: E402, F401

SPACE = """
FIRST = ({"distill.blend": "none", "distill.image_lr": 0.05, "experts.lr": 0.1},)


def small(trial):
    trial.suggest_categorical("experts.lr", [0.1, 0.2])
    if trial.suggest_categorical("distill.blend", ["none", "fixed"]) == "fixed":
        trial.suggest_float("distill.blend_ratio", 0.1, 0.5)
    trial.suggest_float("distill.image_lr", 0.01, 0.1, log=True)
    return {"distill.text_lr": 0.05}
"""

DRIVER = """
import json, sys
from raydd.settings import load
from raydd.sweep import sweep

sweep(load(settings=json.loads(sys.argv[1])))
"""


@pytest.fixture
def settings(tiny_data: Path, tmp_path: Path) -> dict:
    """A sweep of seconds: tiny pictures, encoders with random weights, narrow heads, a space of its own."""
    space = tmp_path / "space.py"
    space.write_text(SPACE)
    return {
        **PRESETS["earlier"].settings,  # with which the trials of these tests differ enough that some are stopped
        "data.reader": "flat-json",
        "data.root": str(tiny_data),
        "encoders.image_weights": "random:0",
        "encoders.image_size": 64,
        "encoders.text_weights": "random:0",
        "features.views": 1,
        "experts.count": 2,
        "experts.batch_size": 8,
        "experts.width": 16,
        "distill.pairs": 6,
        "distill.minibatch": 4,
        "distill.rank": 3,
        "distill.images": "features",
        "distill.steps": 10,
        "distill.student_steps": 3,
        "distill.target_epochs": 2,
        "students.epochs": 3,
        "evaluate.seeds": 2,
        "sweep.space": f"{space}:small",
        "sweep.name": "small",
        "sweep.trials": 3,
        "sweep.pruner": "none",
        "sweep.drawn_again": 0,
        "place.home": str(tmp_path / "home"),
    }


@pytest.fixture
def drive():
    """Start a sweep as a process of its own, as a user's command is one; none outlives its test."""
    drivers = []

    def drive(settings: dict, log: Path) -> subprocess.Popen:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", DRIVER, json.dumps(settings)]
        drivers.append(
            subprocess.Popen(
                command,
                stdout=log.open("a"),
                stderr=subprocess.STDOUT,
                env=environment,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
            )
        )
        return drivers[-1]

    yield drive
    for driver in drivers:
        driver.kill()
        driver.wait()
