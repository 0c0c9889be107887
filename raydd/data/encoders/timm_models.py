"""Image encoders of timm: `timm:MODEL` or `timm:MODEL.TAG`, with timm's own loading and normalisation."""

from typing import Any

import torch

from raydd.config import EncodersConfig
from raydd.data.encoders.towers import CLIP_MEAN, CLIP_STD, ImageTower, feature_width
from raydd.data.encoders.weights import copy_state, hub_access, load_state, path_of, seed_of, seeded
from raydd.errors import ConfigError, nearest, nearest_few

_SETTING = "encoders.image_weights"


def load_timm(argument: str, config: EncodersConfig) -> ImageTower:
    """Load a timm model without its classifier, with the model's pooling and its pretrained weights' normalisation.

    Raises:
        ConfigError: timm has no such model.
        DataError: the weights cannot be obtained, or do not fit.
    """
    import timm

    pretrained = _pretrained_cfg(argument)
    seed, path = seed_of(config.image_weights, _SETTING), path_of(config.image_weights, _SETTING)
    fixed = config.image_size and pretrained.fixed_input_size
    options: dict[str, Any] = {"img_size": config.image_size} if fixed else {}
    if seed is not None or path is not None:
        with seeded(seed), torch.no_grad():
            module = timm.create_model(argument, pretrained=False, num_classes=0, **options)
            if path is not None:  # not timm's own loader, which silently leaves missing weights random
                copy_state(module, load_state(path), path)
    else:
        with hub_access(f"the weights timm:{argument}", _SETTING):
            module = timm.create_model(argument, pretrained=True, num_classes=0, **options)
    size = config.image_size or pretrained.input_size[-1]
    return ImageTower(module, size, feature_width(module, size), pretrained.mean, pretrained.std)


def knows(name: str) -> bool:
    """Return whether a name that raydd does not know is a model of timm, with or without a tag; imports timm."""
    if ":" in name:
        return False
    import timm

    return timm.is_model(name.partition(".")[0])


def timm_identity(argument: str) -> str:
    """Return the model and the tag of its pretrained weights. timm never changes the weights of a tag."""
    return f"{argument.partition('.')[0]}.{_pretrained_cfg(argument).tag}"


def load_nfnet(argument: str, config: EncodersConfig) -> ImageTower:  # noqa: ARG001
    """Load NFNet-L0 as published: global average pool, 2304 wide, but with CLIP's normalisation of the pixels."""
    tower = load_timm("nfnet_l0", config)
    return ImageTower(tower.module, tower.size, tower.width, CLIP_MEAN, CLIP_STD)


def nfnet_identity(argument: str) -> str:  # noqa: ARG001
    """Return the model and tag of NFNet-L0's weights."""
    return timm_identity("nfnet_l0")


def _pretrained_cfg(model: str) -> Any:
    import timm

    name = model.partition(".")[0]
    if not timm.is_model(name):
        suggestion = nearest_few(name, timm.list_models(), "timm.list_models()")
        raise ConfigError(f"timm has no model {name!r}. {suggestion}")
    pretrained_names = timm.list_pretrained(f"{name}.*")
    if "." in model and model not in pretrained_names:
        raise ConfigError(f"timm has no weights {model!r}. {nearest(model, pretrained_names)}")
    return timm.get_pretrained_cfg(model)
