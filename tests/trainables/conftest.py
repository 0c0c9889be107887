from pathlib import Path

import pytest

from raydd.cluster.environment import prepare_environment
from raydd.config import Config
from raydd.settings import load

prepare_environment("local")  # before any test imports ray

from local_ray import ray_here  # noqa: E402, F401


@pytest.fixture
def config(tiny_data: Path, tmp_path: Path) -> Config:
    """A distillation of a second: tiny pictures, encoders with random weights, narrow heads."""
    return load(
        settings={
            "data.reader": "flat-json",
            "data.root": str(tiny_data),
            "encoders.image_weights": "random:0",
            "encoders.image_size": 64,
            "encoders.text_weights": "random:0",
            "features.views": 1,
            "experts.count": 4,
            "experts.batch_size": 8,
            "experts.width": 16,
            "distill.method": "repblend",
            "distill.pairs": 6,
            "distill.minibatch": 4,
            "distill.rank": 3,
            "distill.steps": 50,
            "distill.student_steps": 3,
            "distill.target_epochs": 2,
            "distill.images": "features",
            "students.epochs": 3,
            "place.home": str(tmp_path / "home"),
        }
    )
