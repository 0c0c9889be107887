"""The stages pairs and features."""

from raydd.config import Config
from raydd.data import DataSet, Features, encode_features, load_data
from raydd.progress import Progress, silent
from raydd.store import Store


def pairs(config: Config, store: Store, progress: Progress = silent) -> DataSet:
    """The data set, every image of it checked once."""
    return load_data(config.data, store, progress)


def features(config: Config, store: Store, progress: Progress = silent) -> Features:
    """The feature cache of the data set under the two encoders."""
    return encode_features(config, pairs(config, store, progress), store, progress)
