"""A final's run in a real MLflow, and its student as whoever loads it from there has it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mlflow
import pandas as pd
import pytest
from made_sets import made_set
from mlflow import MlflowClient
from mlflow.entities import Run

import raydd
from raydd import stages
from raydd.errors import ConfigError
from raydd.protocols import Workbench
from raydd.settings import with_settings
from raydd.tracking.connection import EXPERIMENT
from raydd.tracking.runs import Tracking
from raydd.tuning.finals import Finalist
from raydd.tuning.logbook import Logbook

AGAIN = {"encoders.image": "tiny_encoders:image", "encoders.text": "tiny_encoders:text"}


def final_of(work: Workbench[Any]) -> Finalist:
    val, test = (stages.synthetic_scores(work, split).as_json() for split in ("val", "test"))
    settings = {"distill.blend": "none", "distill.image_lr": work.config.distill.image_lr}
    return Finalist(7, settings, 50.0, val, test, stages.synthetic_record(work).folder, r_mean=48.5)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with the run of one final, logged twice, as a driver does that was started again."""
    made, folder = made_set(), tmp_path_factory.mktemp("mlflow")
    work = raydd.open(made.config, made.store)
    final = final_of(work)
    address = f"sqlite:///{folder}/mlflow.db"
    said: list[str] = []
    for _ in range(2):
        with Tracking(address, folder / "artifacts", said.append) as tracking:
            Logbook(tracking, "0123", work).final(final)
    assert said == []
    return address


@pytest.fixture(scope="module")
def run(address: str) -> Run:
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (final,) = client.search_runs([experiment.experiment_id], "tags.kind = 'final'")
    return final


@pytest.fixture
def model(address: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    mlflow.set_tracking_uri(address)
    (logged,) = run.outputs.model_outputs
    yield f"models:/{logged.model_id}"
    mlflow.set_tracking_uri("")


def test_a_final_that_is_scored_otherwise_has_a_run_of_its_own(tmp_path: Path):
    made, address = made_set(), f"sqlite:///{tmp_path}/mlflow.db"
    for seeds in (2, 3):
        work = raydd.open(with_settings(made.config, {"evaluate.seeds": seeds}), made.store)
        with Tracking(address, tmp_path / "artifacts") as tracking:
            Logbook(tracking, "0123", work).final(final_of(work))
    client = MlflowClient(address)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], "tags.kind = 'final'")
    assert {run.data.params["evaluate.seeds"] for run in runs} == {"2", "3"}
    assert len({run.data.metrics["test/r_mean_std"] for run in runs}) == 2


def test_a_run_is_named_by_what_differs_and_says_what_it_read(run: Run, address: str):
    assert run.info.run_name == "final 7 · blend none · image_lr 0.13"
    assert run.data.tags["raydd.order"] == "final 051.50"
    assert run.data.tags["mlflow.note.content"].startswith("![its synthetic set](")
    shown = [unquote(path) for path in re.findall(r"path=([^&]+)&", run.data.tags["mlflow.note.content"])]
    assert set(shown) <= {file.path for file in MlflowClient(address).list_artifacts(run.info.run_id, "figures")}
    read = {(one.dataset.name, tag.value): one.dataset.profile for one in run.inputs.dataset_inputs for tag in one.tags}
    assert set(read) == {("synthetic", "train"), ("tiny train", "source"), ("tiny val", "val"), ("tiny test", "test")}
    assert read["synthetic", "train"] == '{"num_rows": 6}'


def test_the_student_finds_as_it_does_in_raydd(model: str):
    made = made_set()
    work = raydd.open(made.config, made.store)
    (student,) = work.train_students(stages.final_synthetic(work), [0])
    held_out = work.data.test
    images, texts = [str(image.path) for image in held_out.images], list(held_out.captions)
    loaded = mlflow.pyfunc.load_model(model, model_config=AGAIN)
    rows = loaded.predict(pd.DataFrame({"image": pd.Series(images), "caption": pd.Series(texts)}), params={"top": 2})

    embedded = work.embed_images(student, work.gallery(held_out.images, "test"))[0]
    asked = work.embed_texts(student, work.text_encoder.encode(texts[:1]).float().cpu())[0, 0]
    cosines = embedded @ asked
    mine = rows[rows["query"] == texts[0]]
    assert list(mine["rank"]) == [1, 2]
    assert list(mine["cosine"]) == pytest.approx(cosines.topk(2).values.tolist(), abs=1e-3)
    assert mine["found"].iloc[0] == images[int(cosines.argmax())]
    assert set(rows["query"]) == {*images, *texts}


def test_nothing_to_find_is_an_empty_table(model: str):
    loaded = mlflow.pyfunc.load_model(model, model_config=AGAIN)
    found = loaded.predict(pd.DataFrame({"image": [None], "caption": ["a dog"]}))
    assert list(found.columns) == ["query", "rank", "found", "cosine"]
    assert found.empty


def test_encoders_that_are_code_are_not_run_unless_they_are_named_again(model: str):
    with pytest.raises(ConfigError, match=r"model_config=.* with \"encoders.image\": \"tiny_encoders:image\""):
        mlflow.pyfunc.load_model(model)


def test_a_model_holds_no_pickle(model: str, address: str, tmp_path: Path):
    folder = tmp_path / "model"
    mlflow.artifacts.download_artifacts(model, dst_path=str(folder), tracking_uri=address)
    kinds = {file.suffix for file in folder.rglob("*") if file.is_file()}
    assert kinds <= {".py", ".json", ".safetensors", ".yaml", ".yml", ".txt", ""}
