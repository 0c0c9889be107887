"""The stages pairs and features."""

from raydd.config import Config
from raydd.data import (
    CaptionFeatures,
    DataSet,
    Features,
    HeldOut,
    encode_features,
    encode_held_out,
    encode_texts,
    load_data,
)
from raydd.progress import Progress, silent
from raydd.store import Store


def pairs(config: Config, store: Store, progress: Progress = silent) -> DataSet:
    """The data set, every image of it checked once."""
    return load_data(config.data, store, progress)


def features(config: Config, store: Store, progress: Progress = silent) -> Features:
    """The feature cache of the data set under the two encoders."""
    return encode_features(config, pairs(config, store, progress), store, progress)


def held_out(config: Config, store: Store, progress: Progress = silent) -> HeldOut:
    """The features of val and test alone, for students of what other encoders or data made."""
    return encode_held_out(config, pairs(config, store, progress), store, progress)


def prepare(config: Config, store: Store, progress: Progress = silent) -> Features | CaptionFeatures:
    """What experts and distillation read of a data set, made where the store lacks it.

    Under protocol B it is the feature cache; where the image encoder is trained it is the captions' features alone.
    """
    if config.distill.protocol == "encoder":
        return encode_texts(config, pairs(config, store, progress), store, progress)
    return features(config, store, progress)
