"""Fixtures of small pairs and the experts trained on them."""

import pytest
from small_pairs import RECIPE, Split, make_split, open_experts

from raydd.distill.experts import Experts, train_experts


@pytest.fixture(scope="session")
def train_split() -> Split:
    return make_split(80, seed=1)


@pytest.fixture(scope="session")
def val_split() -> Split:
    return make_split(40, seed=2, views=1)


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory, train_split: Split) -> Experts:
    made = open_experts(tmp_path_factory.mktemp("experts"))
    for expert in range(made.count):
        train_experts(made, [expert], train_split, RECIPE, [1, 2, 3, 4], device="cpu")
    return made
