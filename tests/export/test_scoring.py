"""A set scored elsewhere: with other encoders, on classes, on other data; kept, and refused where it cannot be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stage_settings import TINY

import raydd
from raydd import stages
from raydd.config import Config
from raydd.data.encoders import image_identity
from raydd.errors import ConfigError, RecordError
from raydd.evaluate.retrieval import METRICS
from raydd.export.scoring import made_set, score_set
from raydd.sets.read import open_set
from raydd.settings import to_yaml, with_settings
from raydd.stages.transferring import own_scores
from raydd.store import Record, Store


@pytest.fixture
def config(tiny_data: Path) -> Config:
    settings = {**TINY, "data.root": str(tiny_data), "distill.images": "pixels", "distill.steps": 2}
    return with_settings(Config(), {**settings, "evaluate.baselines": ("random",), "evaluate.seeds": 2})


def write_classes(root: Path) -> Path:
    rng = np.random.default_rng(1)
    for name in ("red", "blue", "green"):
        (root / name).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(root / name / "0.png")
    return root


def no_work(work: str, *_: Any) -> None:
    raise AssertionError(f"{work} was done again")


def test_every_row_that_is_asked_for_is_there_and_kept(config: Config, store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(to_yaml(with_settings(config, {"data.seed": 1})))
    asked = {
        "evaluate.encoders": ("tiny_encoders:wide", "tiny_encoders:image+tiny_encoders:letters"),
        "evaluate.classes": str(write_classes(tmp_path / "classes")),
        "evaluate.unseen": str(other),
    }
    reported = set[str]()
    found = score_set(with_settings(config, asked), store, None, lambda work, done, total: reported.add(work))
    assert reported >= {"students of pixels, tiny_encoders:wide", "students of photographs, tiny_encoders:image"}
    assert set(found.retrieval) == {
        "synthetic",
        "random",
        *(
            f"{name}, {encoders}"
            for name in ("synthetic", "its photographs")
            for encoders in asked["evaluate.encoders"]
        ),
        "synthetic, on all of other",
    }
    assert all(len(seeds) == 2 for seeds in found.retrieval.values())
    assert all(0 <= seed["ACC@1"] <= seed["ACC@5"] == 100 for seed in found.classes["synthetic"])
    json.dumps(found.as_json())
    kept = score_set(with_settings(config, asked), store, None, no_work)
    assert kept.as_json() == found.as_json()


def test_a_folder_s_set_brings_its_own_encoders_and_size(config: Config, store: Store) -> None:
    stages.final_synthetic(raydd.open(config, store))
    folder = Path(store.root) / stages.synthetic_record(raydd.open(config, store)).folder
    names = {name: TINY[name] for name in ("encoders.image", "encoders.text")}
    asked = open_set(folder).provenance.config({**names, "evaluate.seeds": 2})
    assert asked.distill.pairs == 6
    found = score_set(asked, store, open_set(folder))
    assert found.retrieval["synthetic"] == stages.synthetic_scores(raydd.open(config, store)).seeds


def test_a_set_that_its_run_has_scored_is_not_trained_again(config: Config, store: Store) -> None:
    made = stages.run(raydd.open(config, store))
    opened = open_set(Path(store.root) / made["made"]["synthetic_record"])
    found = score_set(config, store, opened, no_work)
    assert found.as_json()["retrieval"]["synthetic"] == {metric: made["synthetic"][metric] for metric in METRICS}
    assert not store.names("transfers")


@pytest.mark.parametrize("changes", [{}, {"students.batch_size": 4}, {"evaluate.choice": "best-on-split"}])
def test_the_scores_are_those_that_sets_of_other_code_get(
    config: Config, store: Store, changes: dict[str, Any]
) -> None:
    work = raydd.open(with_settings(config, {**changes, "evaluate.baselines": ()}), store)
    stages.final_synthetic(work)
    opened = open_set(Path(store.root) / stages.synthetic_record(work).folder)
    assert score_set(work.config, store, opened).retrieval["synthetic"] == tuple(own_scores(work, made_set(opened)))


def test_scores_are_named_by_the_set_s_pairs_and_not_by_the_baselines(config: Config, store: Store) -> None:
    stages.final_synthetic(raydd.open(config, store))
    opened = open_set(Path(store.root) / stages.synthetic_record(raydd.open(config, store)).folder)
    assert len(opened.synthetic) == 6

    def name(pairs: int, batch_size: int) -> str:
        changed = with_settings(config, {"distill.pairs": pairs, "students.batch_size": batch_size})
        return stages.scores_record(raydd.open(changed, store), "synthetic", opened).fingerprint

    assert name(4, 128) == name(6, 128) == name(4, 6)
    assert name(4, 4) == name(6, 4) != name(6, 6)


def test_an_encoder_keeps_its_weights_next_to_another_text_encoder(config: Config, store: Store) -> None:
    own = {"encoders.image": "efficientnet-lite0", "encoders.image_weights": "random:1", "encoders.image_size": 32}
    config = with_settings(config, {**own, "evaluate.baselines": (), "evaluate.seeds": 1})
    config = with_settings(config, {"evaluate.encoders": ("efficientnet-lite0+tiny_encoders:letters",)})
    score_set(config, store)
    made = [Record.of_folder(file.parent) for file in Path(store.root).glob("transfers/*/manifest.json")]
    assert {record.settings["row"] for record in made} == {"pixels", "photographs"}
    assert {record.settings["encoders"][0] for record in made} == {image_identity(config.encoders)}


def test_other_data_than_the_set_s_are_refused(config: Config, store: Store, tmp_path: Path) -> None:
    stages.final_synthetic(raydd.open(config, store))
    folder = Path(store.root) / stages.synthetic_record(raydd.open(config, store)).folder
    with pytest.raises(ConfigError, match="The set was made from tiny"):
        score_set(with_settings(config, {"data.reader": "stamps", "data.root": ""}), store, open_set(folder))


def test_features_alone_cannot_be_read_by_another_encoder(config: Config, store: Store) -> None:
    config = with_settings(config, {"distill.images": "features", "evaluate.encoders": ("tiny_encoders:wide",)})
    with pytest.raises(RecordError, match="has image features but no pixels"):
        score_set(config, store, None, no_work)
