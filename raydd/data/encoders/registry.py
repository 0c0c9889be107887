"""Encoders by name. To add a family, write a file with a loader, and add a line here.

- `efficientnet-lite0` is a single encoder.
- `timm:MODEL` is a family with an argument.
- `joined:ONE,OTHER*0.5` concatenates the features of several encoders, each multiplied by its weight.
- `module:NAME` or `FILE.py:NAME` is your own function: `function(config: EncodersConfig) -> ImageTower` for images,
  `function(config, device) -> TextTower` for texts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from raydd.config import EncodersConfig
from raydd.data.encoders import huggingface, openclip, packaged, timm_models
from raydd.data.encoders.folding import folded
from raydd.data.encoders.joined import join
from raydd.data.encoders.lean_graph import LeanGraph
from raydd.data.encoders.memory_format import fastest_memory_format
from raydd.data.encoders.towers import ImageEncoder, ImageTower, NormalisedTower, TextEncoder, TextTower
from raydd.data.encoders.weights import content_identity, path_of, seed_of
from raydd.device import in_tf32
from raydd.errors import ConfigError
from raydd.memory import keep_freed_blocks
from raydd.outside import JOINED, checked, find, guarded, source_identity, without_folder

Load = TypeVar("Load")
LoadImage = Callable[[str, EncodersConfig], ImageTower]
LoadText = Callable[[str, EncodersConfig, str], TextTower]


@dataclass(frozen=True)
class Family(Generic[Load]):
    """How the encoders of one name, or of one prefix, are loaded."""

    load: Load
    """Makes a tower from the name's argument (the part after the colon) and the settings; for texts also the device."""
    own_weights: Callable[[str], str]
    """Identifies the encoder's own weights, from the name's argument; cheap, builds no network."""
    source: Callable[[str], str] = lambda argument: ""
    """Hash of code or of a model's folder from outside raydd, from the name's argument; features depend on it, not only
    on weights."""


def _lite_family(number: str) -> Family[LoadImage]:
    return Family(partial(packaged.load_lite, number=number), partial(packaged.lite_identity, number=number))


def _load_joined(argument: str, config: EncodersConfig) -> ImageTower:
    """Load several image encoders and concatenate their features: `joined:ONE,OTHER`, with weights `ONE,OTHER*0.5`."""
    if path_of(config.image_weights, "encoders.image_weights"):
        raise ConfigError(
            f"encoders.image_weights {config.image_weights} is one encoder's file, and joined:{argument} "
            "names several. Leave it empty, or give `random:SEED`."
        )
    parts = _parse_joined(argument)
    return join(
        [family.load(part_argument, config) for family, part_argument, _ in parts], [weight for *_, weight in parts]
    )


def _joined_identity(argument: str) -> str:
    return " ".join(family.own_weights(part_argument) for family, part_argument, _ in _parse_joined(argument))


def _joined_source(argument: str) -> str:
    return " ".join(
        filter(None, (family.source(part_argument) for family, part_argument, _ in _parse_joined(argument)))
    )


def _parse_joined(argument: str) -> list[tuple[Family[LoadImage], str, float]]:
    """Return the encoders to join, each with its own argument and its weight.

    Raises:
        ConfigError: there are fewer than two, one does not exist, or a weight is not a positive number.
    """
    names = argument.split(",")
    if len(names) < 2 or not all(names):
        raise ConfigError(f"encoders.image joined:{argument} has to name several encoders: joined:ONE,OTHER.")
    return [_parse_part(name) for name in names]


def _parse_part(name: str) -> tuple[Family[LoadImage], str, float]:
    encoder, star, weight = name.partition("*")
    try:
        factor = float(weight) if star else 1.0
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ConfigError(f"encoders.image: {weight!r} in {name!r} is no weight. Give a number above 0, as in ONE*0.5.")
    return *_find_family(encoder, IMAGE_ENCODERS, "image"), factor


IMAGE_ENCODERS: dict[str, Family[LoadImage]] = {
    "efficientnet-lite0": _lite_family("0"),
    "efficientnet-lite1": _lite_family("1"),
    "efficientnet-lite2": _lite_family("2"),
    "nfnet": Family(timm_models.load_nfnet, timm_models.nfnet_identity),
    "timm:": Family(timm_models.load_timm, timm_models.timm_identity),
    "open_clip:": Family(openclip.load_openclip_image, openclip.openclip_identity),
    JOINED: Family(_load_joined, _joined_identity, _joined_source),
}

TEXT_ENCODERS: dict[str, Family[LoadText]] = {
    "minilm": Family(packaged.load_minilm, packaged.minilm_identity),
    "bert": Family(huggingface.load_bert, lambda argument: "bert-base-uncased"),
    "hf:": Family(huggingface.load_hf, huggingface.hf_name, huggingface.folder_identity),
    "open_clip:": Family(openclip.load_openclip_text, openclip.openclip_identity),
}


def load_image_encoder(config: EncodersConfig, device: str = "cpu", *, trained: bool = False) -> ImageEncoder:
    """Load the image encoder that `encoders.image` names, frozen, on a device.

    On the CPU the encoder is in the faster memory format, which is measured; on a GPU it is in channels-last memory. If
    it is to be `trained`, nothing is folded, so that it keeps its parameters, and it keeps its memory format, on which
    last bits depend.

    Raises:
        ConfigError: the encoder does not exist.
        DataError: its weights cannot be obtained or do not fit.
    """
    family, argument = _find_family(config.image, IMAGE_ENCODERS, "image")
    tower = family.load(argument, config)
    plain = tower.module.eval().requires_grad_(False)
    network = plain if trained else LeanGraph(folded(plain, tower.size))
    module = NormalisedTower(network, tower.mean, tower.std).eval().requires_grad_(False)
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu:
        keep_freed_blocks()
    if on_cpu and not trained:
        fastest_memory_format(f"{config.image} {tower.size}", module, tower.size)
    module = module.to(device)
    if not on_cpu and not trained:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ImageEncoder(config.image, tower.size, tower.width, module, image_identity(config))


def load_text_encoder(config: EncodersConfig, device: str = "cpu") -> TextEncoder:
    """Load the text encoder that `encoders.text` names, frozen, on a device. A GPU multiplies in TF32.

    Raises:
        ConfigError: the encoder does not exist.
        DataError: its weights cannot be obtained or do not fit.
    """
    family, argument = _find_family(config.text, TEXT_ENCODERS, "text")
    tower = family.load(argument, config, device)
    return TextEncoder(config.text, tower.width, text_identity(config), in_tf32()(tower.encode))


def image_identity(config: EncodersConfig) -> str:
    """Return what the image features depend on under these settings: name, weights, input size. Builds no network."""
    family, argument = _find_family(config.image, IMAGE_ENCODERS, "image")
    weights = _weights_identity(config.image_weights, "encoders.image_weights") or family.own_weights(argument)
    size = f"size {config.image_size}" if config.image_size else ""
    return " ".join(filter(None, (without_folder(config.image), family.source(argument), weights, size)))


def text_identity(config: EncodersConfig) -> str:
    """Return what the text features depend on under these settings: name, weights, pooling. Builds no network."""
    family, argument = _find_family(config.text, TEXT_ENCODERS, "text")
    weights = _weights_identity(config.text_weights, "encoders.text_weights") or family.own_weights(argument)
    pooling = "" if config.text_pooling == "default" else config.text_pooling
    return " ".join(filter(None, (without_folder(config.text), family.source(argument), weights, pooling)))


def _weights_identity(weights: str, setting: str) -> str:
    if seed_of(weights, setting) is not None:
        return weights
    path = path_of(weights, setting)
    return content_identity(path) if path else ""


def _find_family(name: str, families: dict[str, Family[Load]], side: str) -> tuple[Family[Load], str]:
    prefix, colon, argument = name.partition(":")
    if prefix + colon in families and bool(colon) == bool(argument):
        return families[prefix + colon], argument
    setting = f"encoders.{side}"
    if name in families:
        raise ConfigError(f"{setting} {name!r} names no model. Write it after the colon, as in {name}MODEL.")
    if side == "image" and timm_models.knows(name):
        raise ConfigError(f"{setting} {name!r} is unknown, but timm has it. Write it as timm:{name}.")
    example = f"a function, as in def {side}(config{', device' if side == 'text' else ''}): ..."
    function: Any = find(name, families, setting, None, example)
    load: Any = partial(_load_user_tower, function, name, setting)
    return Family(load, lambda _: "", lambda _: source_identity(name)), argument


def _load_user_tower(
    function: Callable[..., Any], name: str, setting: str, _: str, *loader_arguments: Any
) -> ImageTower | TextTower:
    """Load a user's own tower. Its errors become a ConfigError, when it is created and when it encodes."""
    tower = guarded(function, name, setting)(*loader_arguments)
    if setting == "encoders.text":
        tower = checked(tower, TextTower, name, setting)
        return replace(tower, encode=guarded(tower.encode, name, setting))
    tower = checked(tower, ImageTower, name, setting)
    module = checked(tower.module, nn.Module, name, setting)
    module.forward = guarded(module.forward, name, setting)  # the module keeps its class, for code that inspects it
    return tower
