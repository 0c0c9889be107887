import os
from pathlib import Path
from types import SimpleNamespace

import mortal_encoders
import pytest
import ray
import torch
from stage_settings import Work

import raydd
from raydd.cli import main
from raydd.cluster import gpus
from raydd.data import feature_shards
from raydd.errors import DataError, PlaceError
from raydd.place import open_store
from raydd.settings import flatten, with_settings
from trainables import features
from trainables.features import ShardEncoder, make_features


@pytest.fixture
def many_shards(monkeypatch):
    monkeypatch.setattr(feature_shards, "_IMAGES_PER_SHARD", 5)


def test_shards_encoded_one_by_one_are_those_of_one_process(config, many_shards, tmp_path):
    store = open_store(config.place)
    files = [shard.file for shard in feature_shards.shards_of(raydd.open(config, store).data)]
    assert files[:3] == [f"train/images-0000{number}.safetensors" for number in range(3)]
    encoder = ShardEncoder(config, raydd.open(config, store).data.listing)
    for file in reversed(files):
        assert encoder({"files": [file]}) == {"files": [file]}
    alone = with_settings(config, {"place.home": str(tmp_path / "alone")})
    ours, theirs = raydd.open(config, store).features, raydd.open(alone, open_store(alone.place)).features
    assert ours.fingerprint == theirs.fingerprint
    for name in ("image_spread", "image_range", "text_spread"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    for mine, other in zip(ours.train.images.shards, theirs.train.images.shards, strict=True):
        assert torch.equal(mine, other)


def test_rows_hold_what_one_start_of_decoders_can_serve_and_leave_several_for_each_actor(config, monkeypatch):
    monkeypatch.setattr(feature_shards, "_IMAGES_PER_SHARD", 1)
    shards = feature_shards.shards_of(raydd.open(config).data)
    for workers in (1, 2, 50):
        rows = features._rows(shards, workers)
        assert [file for row in rows for file in row] == [shard.file for shard in shards]
        assert all(len({file.rsplit("-", 1)[0] for file in row}) == 1 for row in rows)
        assert max(map(len, rows)) <= max(1, len(shards) // (4 * workers))
    monkeypatch.setattr(features, "_ROWS", 1)
    assert max(map(len, features._rows(shards, 1))) == features.IN_A_ROW


@pytest.mark.slow
def test_ray_workers_share_the_shards_and_pass_over_those_that_are_there(config):
    told = []
    make_features(raydd.open(config, progress=lambda work, done, total: told.append((work, done, total))), workers=4)
    shards = [(done, total) for work, done, total in told if work == "shards of features"]
    assert shards == [(done, 6) for done in range(7)]
    raydd.open(config, open_store(config.place)).prepare()
    told.clear()
    make_features(raydd.open(config, progress=lambda work, done, total: told.append(work)), workers=2)
    assert "shards of features" not in told


@pytest.fixture
def mortal(config, monkeypatch, tmp_path):
    """Of workers that can import mortal_encoders, and find out there whether they died before."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(mortal_encoders.__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv(mortal_encoders.FLAG, str(tmp_path / "died"))
    return with_settings(config, {"encoders.image": "mortal_encoders:once", "encoders.image_weights": ""})


@pytest.mark.slow
def test_an_actor_that_dies_costs_the_shard_in_its_hands(mortal, tmp_path):
    make_features(raydd.open(mortal), workers=2)
    assert (tmp_path / "died").exists()
    store = open_store(mortal.place)
    features = raydd.open(mortal, store, progress := Work()).features
    assert progress.done["views encoded"] == [12]  # nothing was left to encode
    assert progress.done["held-out images encoded"] == [8]
    assert features.train.images.shape[0] == 12


@pytest.mark.slow
def test_a_shard_that_kills_every_actor_ends_with_an_error(mortal):
    with pytest.raises(PlaceError, match=r"A worker failed: .*Error: .*give the same command again"):
        make_features(raydd.open(with_settings(mortal, {"encoders.image": "mortal_encoders:always"})), workers=2)


@pytest.mark.slow
def test_a_command_ends_with_the_error_of_its_worker(mortal, capsys):
    given = {"encoders.image": "mortal_encoders:refuses", "encoders.image_weights": ""}
    given |= {name: flatten(mortal)[name] for name in ("data.reader", "data.root", "encoders.text_weights")}
    given |= {"place.home": mortal.place.home}
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    assert main(["features", "--workers", "1", *flags]) == 2
    errors = capsys.readouterr().err
    assert errors.endswith("raydd: The images are too dark. Take others.\n")
    assert "Traceback" not in errors
    assert main(["features", "--workers", "1", "--debug", *flags]) == 2
    assert "in forward\n    raise DataError" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "raised"), [(DataError("too dark"), DataError), (KeyError("dark"), PlaceError)])
def test_an_actor_passes_its_error_on_as_it_is(config, monkeypatch, error, raised):
    class Encoder:
        def __init__(self, config, listing, gpu_share):
            raise error

    def encoded(config, listing, rows, workers, cpus, gpus):
        actor = features.ShardEncoderActor(config, listing, gpus)
        return iter([actor({"files": row}) for row in rows])

    monkeypatch.setattr(features, "ShardEncoder", Encoder)
    monkeypatch.setattr(features, "_encode_rows", encoded)
    with pytest.raises(raised, match="dark") as failed:
        make_features(raydd.open(config), workers=1)
    assert "raise error" in failed.value.__notes__[0]


def test_workers_encode_captions_alone_where_the_image_encoder_is_trained(config, monkeypatch):
    asked = []

    def encoded(config, listing, rows, workers, cpus, gpus):
        asked.extend(rows)
        return iter(())

    monkeypatch.setattr(features, "_encode_rows", encoded)
    trained = with_settings(config, {"distill.protocol": "encoder", "distill.images": "pixels"})
    make_features(raydd.open(trained), workers=1)
    assert asked == [[f"{split}/texts-00000.safetensors"] for split in ("train", "val", "test")]


def test_an_actor_with_a_gpu_decodes_on_its_share_of_the_cores(config, monkeypatch):
    asked = []

    def encoded(config, listing, rows, workers, cpus, gpus):
        asked.append((cpus, gpus, config.place.threads, config.place.device))
        return iter(())

    machine = {"NodeID": "1", "Alive": True, "Resources": {"CPU": 33.0, "GPU": 4.0}}
    monkeypatch.setattr(features, "_encode_rows", encoded)
    monkeypatch.setattr(gpus, "usable_cards", list)
    monkeypatch.setattr(ray, "nodes", lambda: [machine])
    work = raydd.open(with_settings(config, {"place.threads": 0, "place.device": "auto"}))
    make_features(work, workers=2, gpus=1.0)
    assert asked == [(8, 1.0, 8, "cuda")]


def test_an_actor_uses_no_more_of_a_gpu_than_its_share(config, monkeypatch):
    calls = []
    monkeypatch.setattr(features, "use_gpu_share", calls.append, raising=False)
    monkeypatch.setattr(features, "device_of", lambda place: calls.append("device") or "cpu")
    ShardEncoder(config, raydd.open(config, open_store(config.place)).data.listing, 0.5)
    assert calls == [0.5, "device"]  # before the device is tried, which takes memory

    given = []
    dataset = SimpleNamespace(map=lambda actor, **options: given.append(options) or dataset, iter_rows=list)
    monkeypatch.setattr("ray.data.from_items", lambda *_, **__: dataset)  # it would start Ray
    features._encode_rows(config, "listing", [["file"]], 1, 1, 0.5)
    assert not ray.is_initialized()
    assert given[0]["fn_constructor_args"] == (config, "listing", 0.5)
