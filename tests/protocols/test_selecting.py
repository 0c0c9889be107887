"""Selections as a stage: every one of them, from the store the second time, and as the start of a distillation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from stage_settings import TINY

import raydd
from raydd import stages
from raydd.config import Config
from raydd.distill.selections import SELECTIONS
from raydd.errors import ConfigError
from raydd.protocols.selecting import selection_record
from raydd.settings import with_settings
from raydd.store import Store


@pytest.fixture
def config(tiny_data: Path) -> Config:
    return with_settings(Config(), {**TINY, "data.root": str(tiny_data)})


def no_work(work: str, *_: Any) -> None:
    raise AssertionError(f"{work} was done again")


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_choice_has_different_images_and_is_made_once(config: Config, store: Store, name: str) -> None:
    chosen = raydd.open(config, store).select(name, 6, 1)
    owner = raydd.open(config, store).features.train.image_of_text
    assert len(owner[chosen].unique()) == 6
    assert torch.equal(raydd.open(config, store, no_work).select(name, 6, 1), chosen)
    facts = selection_record(raydd.open(config, store), name, 6, 1).facts()
    assert facts["seconds"] > 0
    assert facts["peak_bytes"] > 10_000_000


def test_the_warm_up_is_a_prefix_of_the_seed_s_expert(config: Config, store: Store) -> None:
    raydd.open(config, store).select("herding", 4, 1)
    experts = raydd.open(config, store).experts()
    assert experts.has(1, 5)
    assert not experts.has(0, 5)


def test_herding_scores_are_kept_apart_from_random_ones(config: Config, store: Store) -> None:
    scores = {name: stages.selected_scores(raydd.open(config, store), name) for name in ("random", "herding")}
    assert all(len(row.seeds) == 2 for row in scores.values())
    kept = stages.selected_scores(raydd.open(config, store, no_work), "herding")
    assert kept == scores["herding"]


def test_a_distillation_starts_from_the_selection_that_is_asked_for(config: Config, store: Store) -> None:
    config = with_settings(config, {"distill.start": "k-center", "distill.images": "features", "distill.steps": 1})
    chosen = raydd.open(config, store).select("k-center", 6, config.distill.seed)
    assert torch.equal(stages.final_synthetic(raydd.open(config, store)).start_captions, chosen)


def test_more_pairs_than_images_is_refused(config: Config, store: Store) -> None:
    with pytest.raises(ConfigError, match=r"distill\.pairs is 13, but train has 12 images"):
        raydd.open(config, store).select("herding", 13, 0)
