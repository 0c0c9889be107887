import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from encoded import encode_features, encode_held_out

from raydd.config import Config, DataConfig, EncodersConfig, FeaturesConfig, PlaceConfig
from raydd.data import (
    DataSet,
    FeatureRecords,
    encode_texts,
    feature_records,
    feature_shards,
    load_data,
    open_features,
    open_held_out,
    open_image,
)
from raydd.data.augment import transform_of, views_of
from raydd.data.feature_rows import mean_and_std
from raydd.errors import DataError, RecordError
from raydd.store import Store

ENCODERS = """
import torch
from raydd.data.encoders import ImageTower, TextTower

class Blocks(torch.nn.Module):
    def forward(self, pixels):
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)

def image(config):
    return ImageTower(Blocks(), 16, 12, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

def text(config, device):
    return TextTower(lambda captions: torch.tensor([[len(c), sum(map(ord, c)) / 99] for c in captions]), 2)

def short(config, device):
    return TextTower(lambda captions: torch.tensor([[float(len(c))] for c in captions]), 1)

def infinite(config, device):
    return TextTower(lambda captions: torch.full((len(captions), 2), 1e6), 2)

def narrower(config, device):
    return TextTower(lambda captions: torch.zeros(len(captions), 2), 3)
"""
MODULE = "raydd_test_feature_encoders"


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{MODULE}.py").write_text(ENCODERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setattr(feature_shards, "_IMAGES_PER_SHARD", 5)
    monkeypatch.setattr(feature_shards, "_CAPTIONS_PER_SHARD", 7)


@pytest.fixture
def config(tiny_data: Path) -> Config:
    return Config(
        data=DataConfig(reader="flat-json", root=str(tiny_data), name="tiny"),
        encoders=EncodersConfig(image=f"{MODULE}:image", text=f"{MODULE}:text"),
        features=FeaturesConfig(views=3, seed=2),
        place=PlaceConfig(device="cpu"),
    )


@pytest.fixture
def data(config: Config, store: Store) -> DataSet:
    return load_data(config.data, store)


class KilledError(Exception):
    """Stands for a kill between two shards."""


def killing_after(work: str, wanted: int):
    def progress(at: str, done: int, total: int) -> None:
        if at == work and done > wanted:
            raise KilledError

    return progress


def contents(records: FeatureRecords) -> dict[str, bytes]:
    """The files of both image records by their names inside them."""
    return {
        name.removeprefix(record.folder): record.store.read(name)
        for record in (records.train, records.held_out)
        for name in record.store.names(record.folder)
        if not name.endswith("manifest.json")
    }


def test_features_are_the_encoders_of_the_right_pixels_and_captions(
    config: Config, data: DataSet, store: Store
) -> None:
    features = encode_features(config, data, store)
    assert features.train.images.shape == (12, 3, 12)
    assert features.test.images.shape == (4, 1, 12)
    assert (features.image_width, features.text_width) == (12, 2)
    for split, pairs, augment in [(features.train, data.train, "published"), (features.val, data.val, "none")]:
        for index, source in enumerate(pairs.images):
            views = split.images.shape[1]
            pixels = views_of(open_image(source), transform_of(augment, 16), views, seed=2, index=index).float() / 255
            want = torch.nn.functional.adaptive_avg_pool2d((pixels - 0.5) / 0.5, 2).flatten(1)
            for view in range(views):
                got = split.images.gather(torch.tensor([index]), view)[0]
                assert torch.allclose(got, want[view], atol=1e-3)
        want = torch.tensor([[len(c), sum(map(ord, c)) / 99] for c in pairs.captions]).half()
        assert torch.equal(split.texts.whole(), want)
        assert torch.equal(split.image_of_text, torch.from_numpy(pairs.image_of_caption))


def test_the_spread_is_that_of_all_training_views(config: Config, data: DataSet, store: Store) -> None:
    features = encode_features(config, data, store)
    rows = torch.cat([features.train.images.gather(torch.arange(12), view) for view in range(3)]).double()
    assert torch.allclose(features.image_spread[0].double(), rows.mean(0), atol=1e-6)
    assert torch.allclose(features.image_spread[1].double(), rows.std(0, correction=0), atol=1e-6)
    texts = features.train.texts.whole().double()
    assert torch.allclose(features.text_spread.double(), torch.stack([texts.mean(0), texts.std(0, correction=0)]))


def test_mean_and_deviation_over_chunks() -> None:
    rows = (torch.randn(100, 4, generator=torch.Generator().manual_seed(0)) * 3 + 50).half()
    mean, std = mean_and_std(rows.split(7))
    assert torch.allclose(mean.double(), rows.double().mean(0))
    assert torch.allclose(std.double(), rows.double().std(0, correction=0))


@pytest.mark.parametrize(
    ("work", "done", "kept"),
    [("views encoded", 0, 0), ("views encoded", 20, 1), ("held-out images encoded", 5, 5)],
)
def test_a_killed_run_goes_on_at_its_shard_and_gives_the_same_bytes(
    config: Config, data: DataSet, store: Store, tmp_path: Path, work: str, done: int, kept: int
) -> None:
    with pytest.raises(KilledError):
        encode_features(config, data, store, killing_after(work, done))
    records = feature_records(config, data.fingerprint, store)
    assert not records.complete
    before = contents(records)
    assert len(before) == kept
    first: dict[str, int] = {}
    encode_features(config, data, store, lambda at, done, total: first.setdefault(at, done))
    assert (first.get(work, 0) > 0) == (kept > 0)
    after = contents(records)
    assert before.items() <= after.items()
    other = Store(tmp_path / "other")
    encode_features(config, data, other)
    assert contents(feature_records(config, data.fingerprint, other)) == after


@pytest.mark.parametrize("encode_in_workers", [True, False])  # as on a CPU, and as for a GPU
def test_workers_change_nothing(
    config: Config,
    data: DataSet,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encode_in_workers: bool,
) -> None:
    from raydd.data import encoding

    encode_features(config, data, store)
    monkeypatch.setattr(encoding, "_FEW", 0)
    monkeypatch.setattr(feature_shards, "workers_for", lambda device: 2)
    monkeypatch.setattr(encoding, "_is_cpu", lambda device: encode_in_workers)
    other = Store(tmp_path / "other")
    encode_features(config, data, other)
    records = [feature_records(config, data.fingerprint, where) for where in (store, other)]
    assert contents(records[0]) == contents(records[1])


def test_a_complete_record_is_opened_without_encoders(
    config: Config, data: DataSet, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = encode_features(config, data, store)
    monkeypatch.setattr("raydd.data.features.load_image_encoder", None)
    monkeypatch.setattr("raydd.data.texts.load_text_encoder", None)
    again = encode_features(config, data, store)
    assert again.fingerprint == made.fingerprint
    assert torch.equal(again.train.texts.whole(), made.train.texts.whole())


def test_each_record_is_named_by_what_decides_its_content(config: Config, store: Store) -> None:
    def names(config: Config, data: str = "d") -> tuple[str, str, str]:
        records = feature_records(config, data, store)
        return records.train.fingerprint, records.held_out.fingerprint, records.texts.fingerprint

    def changed(**features: object) -> Config:
        return replace(config, features=replace(config.features, **features))

    train, held_out, texts = names(config)
    assert not {train, held_out, texts} & set(names(config, "e"))
    weights = names(replace(config, encoders=replace(config.encoders, image_weights="random:1")))
    assert weights[2] == texts
    assert weights[0] != train
    assert weights[1] != held_out
    other_texts = names(replace(config, encoders=replace(config.encoders, text=f"{MODULE}:infinite")))
    assert other_texts[:2] == (train, held_out)
    assert other_texts[2] != texts
    changes = ({"views": 4}, {"seed": 3}, {"augment": "mild"}, {"augment": "none"})
    views = [names(changed(**change)) for change in changes]
    assert len({train, *(name for name, _, _ in views)}) == 5
    assert {name[1:] for name in views} == {(held_out, texts)}
    assert names(replace(config, place=PlaceConfig(encode_batch=1, threads=1))) == (train, held_out, texts)
    assert names(changed(augment="none")) == names(changed(augment="none", views=9, seed=9))


def test_features_are_told_apart_by_both_encoders(config: Config, data: DataSet, store: Store) -> None:
    made = encode_features(config, data, store).fingerprint
    text = replace(config, encoders=replace(config.encoders, text=f"{MODULE}:short"))
    assert encode_features(text, data, store).fingerprint != made
    image = replace(config, features=FeaturesConfig(views=2))
    assert encode_features(image, data, store).fingerprint != made


def test_another_augmentation_encodes_no_caption_again(config: Config, data: DataSet, store: Store) -> None:
    encode_features(config, data, store)
    told = []
    other = replace(config, features=FeaturesConfig(views=2, augment="mild"))
    encode_features(other, data, store, lambda work, done, total: told.append(work))
    assert set(told) == {"views encoded"}  # nor an image of val or test


def test_another_text_encoder_encodes_no_image_again(config: Config, data: DataSet, store: Store) -> None:
    encode_features(config, data, store)
    told = []
    other = replace(config, encoders=replace(config.encoders, text=f"{MODULE}:short"))
    encode_features(other, data, store, lambda work, done, total: told.append(work))
    assert set(told) == {"captions encoded"}


def test_val_and_test_can_be_had_alone(config: Config, data: DataSet, store: Store) -> None:
    told = []
    held_out = encode_held_out(config, data, store, lambda work, done, total: told.append(work))
    assert set(told) == {"held-out images encoded", "captions encoded"}
    whole = encode_features(config, data, store)
    rows = torch.arange(4)
    for split in ("val", "test"):
        alone, within = getattr(held_out, split), getattr(whole, split)
        assert torch.equal(alone.images.gather(rows, 0), within.images.gather(rows, 0))
        assert torch.equal(alone.image_of_text, within.image_of_text)


def test_without_augmentation_one_view_is_enough(config: Config, data: DataSet, store: Store) -> None:
    features = encode_features(replace(config, features=FeaturesConfig(views=3, augment="none")), data, store)
    assert features.train.images.shape == (12, 1, 12)


@pytest.fixture
def records(config: Config, data: DataSet, store: Store) -> FeatureRecords:
    encode_features(config, data, store)
    return feature_records(config, data.fingerprint, store)


def test_a_damaged_shard_is_named_and_mended(config: Config, data: DataSet, records: FeatureRecords) -> None:
    whole, record = contents(records), records.train
    path = record.local("train/images-00001.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RecordError, match=r"train/images-00001.safetensors is damaged"):
        encode_features(config, data, record.store)
    path.unlink()
    with pytest.raises(RecordError, match=r"no file .*images-00001"):
        encode_features(config, data, record.store)
    record.remove("manifest.json")  # what the message says
    encode_features(config, data, record.store)
    assert contents(records) == whole


def test_a_damaged_shard_of_an_unfinished_record_is_made_again(
    config: Config, data: DataSet, records: FeatureRecords
) -> None:
    whole, record = contents(records), records.held_out
    record.remove("manifest.json")
    path = record.local("val/images-00000.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    encode_features(config, data, record.store)
    assert contents(records) == whole


def test_an_unfinished_record_is_not_opened(config: Config, data: DataSet, store: Store) -> None:
    held_out = encode_held_out(config, data, store)
    texts, records = encode_texts(config, data, store), feature_records(config, "d", store)
    with pytest.raises(RecordError, match="raydd features"):
        open_held_out(records, texts)
    with pytest.raises(RecordError, match="raydd features"):
        open_features(records, held_out, texts)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_went_away_since_the_check_is_named(
    config: Config, data: DataSet, store: Store, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    from raydd.data import encoding

    monkeypatch.setattr(encoding, "_FEW", 0)
    monkeypatch.setattr(feature_shards, "workers_for", lambda device: workers)
    (tiny_data / "images" / "train7.png").unlink()
    with pytest.raises(DataError, match=r"^images/train7.png: missing image"):
        encode_features(config, data, store)


def test_features_beyond_half_precision_are_refused(config: Config, data: DataSet, store: Store) -> None:
    infinite = replace(config, encoders=replace(config.encoders, text=f"{MODULE}:infinite"))
    with pytest.raises(DataError, match="half precision"):
        encode_features(infinite, data, store)


def test_the_caller_s_random_state_is_left_alone(config: Config, data: DataSet, store: Store) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    encode_features(config, data, store)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_text_encoder_that_says_another_width_is_named(config: Config, data: DataSet, store: Store) -> None:
    said = replace(config, encoders=replace(config.encoders, text=f"{MODULE}:narrower"))
    with pytest.raises(DataError, match=r"narrower declares a width of 3, but returns features of width 2\."):
        encode_texts(said, data, store)
