"""Caption features: a record of their own, which every image encoder and augmentation shares."""

from pathlib import Path

import pytest
import torch
from encoded import encode_features
from stage_settings import TINY

from raydd.config import Config
from raydd.data import DataSet, encode_texts, feature_shards, load_data, texts_record
from raydd.data.texts import open_texts
from raydd.errors import RecordError
from raydd.settings import with_settings
from raydd.store import Store


@pytest.fixture
def config(tiny_data: Path) -> Config:
    return with_settings(Config(), {**TINY, "data.root": str(tiny_data)})


@pytest.fixture
def data(config: Config, store: Store) -> DataSet:
    return load_data(config.data, store)


def test_the_feature_cache_has_these_captions(config: Config, data: DataSet, store: Store) -> None:
    told = []
    made = encode_texts(config, data, store)
    again = encode_texts(config, data, store, lambda *work: told.append(work))
    assert told == []  # a complete record is opened
    cached = encode_features(config, data, store)
    for split in ("train", "val", "test"):
        captions, features = getattr(made, split), getattr(cached, split)
        assert torch.equal(captions.texts.whole(), features.texts.whole())
        assert torch.equal(captions.texts.whole(), getattr(again, split).texts.whole())
        assert torch.equal(captions.image_of_text, features.image_of_text)
    assert torch.equal(made.spread, cached.text_spread)
    assert made.width == cached.text_width


def test_a_killed_run_goes_on_at_its_shard(
    config: Config, data: DataSet, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_shards, "_CAPTIONS_PER_SHARD", 7)

    def kill(work: str, done: int, total: int) -> None:
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_texts(config, data, store, kill)
    record, first = texts_record(config, data.fingerprint, store), []
    with pytest.raises(RecordError, match="raydd features"):
        open_texts(record)
    encode_texts(config, data, store, lambda work, done, total: first.append(done))
    assert first[0] == 7
    whole = encode_texts(config, data, Store(tmp_path / "other"))
    assert torch.equal(whole.train.texts.whole(), open_texts(record).train.texts.whole())


def test_a_damaged_shard_of_an_unfinished_record_is_made_again(config: Config, data: DataSet, store: Store) -> None:
    made = encode_texts(config, data, store).train.texts.whole().clone()
    record = texts_record(config, data.fingerprint, store)
    record.remove("manifest.json")
    path = record.local("train/texts-00000.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(encode_texts(config, data, store).train.texts.whole(), made)
