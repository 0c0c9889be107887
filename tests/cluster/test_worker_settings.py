from pathlib import Path

import pytest

from raydd.cluster import worker_settings
from raydd.cluster.worker_settings import for_workers, hide_password, settled, tune_folder, without_passwords
from raydd.config import Config, PlaceConfig
from raydd.settings import with_settings


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(place=PlaceConfig(home=str(tmp_path)))


def test_a_trial_s_process_has_the_threads_of_its_cores_and_every_place_spelt_out(config, monkeypatch):
    monkeypatch.setenv("RAYDD_STUDY", "postgresql://host/raydd")
    alone = settled(config, cpus=2.5, gpus=0)
    assert alone.place.threads == 2
    assert alone.place.device == "cpu"
    assert alone.place.study == "postgresql://host/raydd"
    assert alone.place.store == f"{config.place.home}/store"
    assert settled(config, cpus=0.5, gpus=0).place.threads == 1
    assert settled(with_settings(config, {"place.threads": 7}), cpus=1, gpus=0).place.threads == 7


@pytest.mark.parametrize(
    ("device", "gpus", "worker"), [("auto", 0.5, "cuda"), ("cuda:1", 1, "cuda"), ("cpu", 1, "cpu")]
)
def test_a_worker_computes_on_the_gpu_that_ray_gives_it_with_its_share_of_the_cores(
    config, device, gpus, worker, monkeypatch
):
    monkeypatch.setattr(worker_settings, "cores_beside", {0.5: 3, 1: 7}.get)
    given = settled(with_settings(config, {"place.device": device}), cpus=1, gpus=gpus)
    place = for_workers(given, gpus).place
    assert (place.device, place.threads) == (worker, 3 if gpus == 0.5 else 7)
    asked = settled(with_settings(config, {"place.device": device, "place.threads": 2}), cpus=1, gpus=gpus)
    assert for_workers(asked, gpus).place.threads == 2


def test_a_file_of_one_s_own_is_named_by_its_whole_path(config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def reader(root): ...\nimage = reader\n")
    own = {"data.reader": "own.py:reader", "encoders.image": "joined:own.py:image,nfnet*0.5", "encoders.text": "minilm"}
    found = settled(with_settings(config, own), cpus=1, gpus=0)
    assert found.data.reader == f"{tmp_path}/own.py:reader"
    assert found.encoders.image == f"joined:{tmp_path}/own.py:image,nfnet*0.5"
    assert found.encoders.text == "minilm"
    (tmp_path / "model").mkdir()
    found = settled(with_settings(config, {"encoders.text": "hf:model"}), cpus=1, gpus=0)
    assert found.encoders.text == f"hf:{tmp_path}/model"


def test_passwords_stay_with_the_driver():
    secret = {"place.study": "postgresql://raydd:secret@host/raydd", "place.mlflow": "https://me:secret@host"}
    config = without_passwords(with_settings(Config(), {**secret, "place.store": "s3://bucket/raydd"}))
    assert (config.place.study, config.place.mlflow, config.place.store) == ("", "", "s3://bucket/raydd")
    assert hide_password(secret["place.study"]) == "postgresql://raydd:***@host/raydd"
    plain = with_settings(Config(), {"place.study": "sqlite:////tmp/a.db"})
    assert without_passwords(plain) == plain


def test_tune_s_notes_lie_beside_the_records_of_a_bucket():
    config = with_settings(Config(), {"place.store": "s3://bucket/raydd?region=x"})
    assert tune_folder(config) == "s3://bucket/raydd/ray-runs?region=x"
