"""The features of a data set without a workbench: encoded where the store lacks them, and opened."""

from raydd.config import Config
from raydd.data import DataSet, Features, HeldOut, encode_images, encode_texts, open_features, open_held_out
from raydd.progress import Progress, silent
from raydd.store import Store


def encode_features(config: Config, data: DataSet, store: Store, progress: Progress = silent) -> Features:
    """All of them."""
    records = encode_images(config, data, store, progress)
    texts = encode_texts(config, data, store, progress)
    return open_features(records, open_held_out(records, texts), texts)


def encode_held_out(config: Config, data: DataSet, store: Store, progress: Progress = silent) -> HeldOut:
    """Those of val and test alone."""
    records = encode_images(config, data, store, progress, held_out_only=True)
    return open_held_out(records, encode_texts(config, data, store, progress))
