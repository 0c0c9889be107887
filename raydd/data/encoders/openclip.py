"""Both sides of open_clip's models: `open_clip:MODEL/PRETRAINED`, such as open_clip:ViT-B-32/laion2b_s34b_b79k."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raydd.config import EncodersConfig
from raydd.data.encoders.towers import CLIP_MEAN, CLIP_STD, CPU_CAPTIONS, ImageTower, TextTower, feature_width
from raydd.data.encoders.weights import hub_access, path_of, seed_of, seeded
from raydd.device import sent
from raydd.errors import ConfigError, DataError, nearest, nearest_few

_PROBE = "a photograph"


def load_openclip_image(argument: str, config: EncodersConfig) -> ImageTower:
    """Load the image side with its projection, and the normalisation of the pretrained weights' preprocessing.

    Raises:
        ConfigError: open_clip has no such model or weights.
        DataError: the weights cannot be obtained, or do not fit.
    """
    module = _load_model(
        argument, config.image_weights, "encoders.image_weights", size=config.image_size or None
    ).visual
    preprocess = module.preprocess_cfg
    size = module.image_size[0] if isinstance(module.image_size, tuple) else module.image_size
    mean, std = preprocess.get("mean", CLIP_MEAN), preprocess.get("std", CLIP_STD)
    return ImageTower(module, size, feature_width(module, size), tuple(mean), tuple(std))


def load_openclip_text(argument: str, config: EncodersConfig, device: str) -> TextTower:
    """Load the text side with its projection and the model's own tokenizer.

    Raises:
        ConfigError: open_clip has no such model or weights.
        DataError: the weights or the tokenizer cannot be obtained, or do not fit.
    """
    import open_clip

    setting = "encoders.text_weights"
    model = _load_model(argument, config.text_weights, setting, size=None)
    model.visual = None  # the image side is not needed here
    name = argument.partition("/")[0]
    with hub_access(f"the tokenizer of open_clip:{name}", setting):
        tokenizer = open_clip.get_tokenizer(name)
    encode = _OpenClipText(model.eval().requires_grad_(False).to(device), tokenizer, device)
    return TextTower(encode, encode([_PROBE]).shape[-1])


def openclip_identity(argument: str) -> str:
    """Return the weights' tag. open_clip never changes the weights of a tag."""
    return _split_argument(argument)[1]


class _OpenClipText:
    def __init__(self, model: nn.Module, tokenizer, device: str) -> None:
        self._model, self._tokenizer, self._device = model, tokenizer, device

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Float[Tensor, "B D"]:
        tokens = sent(self._tokenizer(list(captions)), self._device)
        batches = tokens.split(CPU_CAPTIONS) if tokens.is_cpu else [tokens]
        return torch.cat([self._model.encode_text(batch).float() for batch in batches])  # type: ignore[operator]


def _load_model(argument: str, weights: str, setting: str, *, size: int | None) -> Any:
    import open_clip

    seed, path = seed_of(weights, setting), path_of(weights, setting)
    name, tag = _split_argument(argument, requires_tag=seed is None and path is None)
    # Use the tag's preprocessing for any weights: they may be a later state of the same training.
    config = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    preprocess = {key: value for key, value in config.items() if key in ("mean", "std")}
    options: dict[str, Any] = {"force_image_size": size, "force_preprocess_cfg": preprocess, "pretrained_text": False}
    if seed is not None:
        with seeded(seed):
            return open_clip.create_model(name, load_weights=False, **options)
    if path is not None:
        try:
            return open_clip.create_model(name, pretrained=str(path), **options)
        except (RuntimeError, OSError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path} does not fit open_clip's {name} ({reason}). Give that model's weights.") from error
    with hub_access(f"the weights open_clip:{argument}", setting):
        return open_clip.create_model(name, pretrained=tag, **options)


def _split_argument(argument: str, *, requires_tag: bool = False) -> tuple[str, str]:
    """Split into model and weights' tag; the tag may be missing unless the model's own weights are requested."""
    import open_clip

    name, _, tag = argument.partition("/")
    if name not in open_clip.list_models():
        suggestion = nearest_few(name, open_clip.list_models(), "open_clip.list_models()")
        raise ConfigError(f"open_clip has no model {name!r}. {suggestion}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags and (tag or requires_tag):
        raise ConfigError(f"open_clip:{name} has no weights {tag!r}. {nearest(tag, tags)}")
    return name, tag
