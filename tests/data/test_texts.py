"""Caption features alone: those of the feature cache, without its images."""

from pathlib import Path

import torch
from stage_settings import TINY

from raydd.config import Config
from raydd.data import encode_features, encode_texts, load_data
from raydd.settings import with_settings
from raydd.store import Store


def test_captions_alone_are_those_of_the_feature_cache(tiny_data: Path, store: Store) -> None:
    config = with_settings(Config(), {**TINY, "data.root": str(tiny_data)})
    data, told = load_data(config.data, store), []
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
