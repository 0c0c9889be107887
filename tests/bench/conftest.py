"""Experts of small pairs, as the engine's tests have them."""

from pathlib import Path

import pytest
from small_pairs import RECIPE, make_split, open_experts

from raydd.distill.experts import Experts, train_experts


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Experts:
    split, folder = make_split(80, seed=1), tmp_path_factory.mktemp("experts")
    made = open_experts(Path(folder))
    for expert in range(made.count):
        train_experts(made, [expert], split, RECIPE, [1, 2, 3, 4], device="cpu")
    return made
