import dataclasses

import pytest

from raydd.cluster.environment import prepare_environment
from raydd.config import Config, PlaceConfig, SweepConfig

prepare_environment("local")  # before any test imports ray

from local_ray import ray_here  # noqa: E402, F401

from search_spaces import Space  # noqa: E402


def suggest(trial):
    kind = trial.suggest_categorical("distill.blend", ["none", "fixed"])
    if kind == "fixed":
        trial.suggest_float("distill.blend_ratio", 0.1, 0.5)
    trial.suggest_float("distill.image_lr", 0.01, 1.0, log=True)
    return {"distill.momentum": 0.25}


@pytest.fixture
def space():
    return Space("small", suggest, ({"distill.blend": "none", "distill.image_lr": 0.1},))


@pytest.fixture
def config(tmp_path):
    return Config(sweep=SweepConfig(name="small", trials=4), place=PlaceConfig(home=str(tmp_path)))


@pytest.fixture
def address(tmp_path):
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def with_sweep():
    return lambda config, **changes: dataclasses.replace(config, sweep=dataclasses.replace(config.sweep, **changes))
