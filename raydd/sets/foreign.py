"""Reads a set that other code made: a file of arrays, and a YAML file that describes each array (docs/outside.md).

Nothing is guessed from shapes. If the description is incomplete, an error asks for the missing field. If the arrays
contradict the description, they are refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.distill.loss_names import LOSS_NAMES
from raydd.distill.similarity import Similarity
from raydd.errors import ConfigError, RecordError, shown
from raydd.sets.arrays_file import HELP, LOADERS, ArraysFile, is_number
from raydd.settings import read_yaml
from raydd.store import fingerprint

VERSION = 1

# How to write each field; shown if the field is missing or ambiguous.
_SYNTAX: Mapping[str, str] = {
    "file": "`file: NAME`, the .pt, .npz or .safetensors file next to the description",
    "images": "`images: {key: KEY, are: normalised, mean: [R, G, B], std: [R, G, B]}`, `{key: KEY, are: pixels-255}`, "
    "`{key: KEY, are: pixels-1}` or `{key: KEY, are: features, of: ENCODER}`",
    "texts": "`texts: {key: KEY, are: features, of: ENCODER}` or `{key: KEY, are: captions}`",
    "similarity": "`similarity: none`, `{matrix: KEY}` or `{diagonal: KEY, left: KEY, right: KEY, alpha: NUMBER}`",
    "rates": "`rates: KEY`, one learning rate for both sides, or `rates: {image: KEY, text: KEY}`; KEY may be a number",
    "loss": f"`loss:` with the students' loss, one of {', '.join(LOSS_NAMES)}",
}
_OPTIONAL = ("name", "source", "centre")
_IMAGES = {
    "normalised": {"key", "are", "mean", "std"},
    "pixels-255": {"key", "are"},
    "pixels-1": {"key", "are"},
    "features": {"key", "are", "of"},
}
_TEXTS = {"features": {"key", "are", "of"}, "captions": {"key", "are"}}


@dataclass(frozen=True)
class ForeignSet:
    """A set of N pairs that other code made, as its description says."""

    name: str
    source: str
    """Where to get the set or its code; may be empty."""
    images: Float[Tensor, "N 3 S S"] | Float[Tensor, "N d"]
    """Pixels from 0 (black) to 255 (white), neither rounded nor clipped; or features of `image_encoder`."""
    image_encoder: str
    """The encoder of the image features; empty for pixels."""
    texts: Float[Tensor, "N e"] | tuple[str, ...]
    """Features of `text_encoder`, or captions."""
    text_encoder: str
    """The encoder of the text features; empty for captions."""
    similarity: Similarity
    rate_image: float
    rate_text: float
    loss: str
    stored_bytes: int
    """Bytes that a student needs of the file, as stored."""
    fingerprint: str
    """Identifies this file together with this description."""
    image_centre: Float[Tensor, "d"] | None
    """What students subtract from all image features; None: nothing."""

    def __len__(self) -> int:
        return len(self.images)


def read_foreign(path: Path) -> ForeignSet:
    """Read the set that a description names.

    Args:
        path: a YAML file with `file`, `images`, `texts`, `similarity`, `rates` and `loss`, and optionally `name`,
            `source` and `centre`.

    Raises:
        ConfigError: the description is incomplete or ambiguous, or `path` is the file of arrays itself.
        RecordError: the file cannot be read, lacks an array of the description, or has it in another shape.
    """
    if path.suffix in LOADERS:
        arrays = ArraysFile.read(path)
        raise ConfigError(
            f"{path} holds {', '.join(arrays.list_arrays())}, but does not say what they mean. Describe them in a YAML "
            "file, and give the path of that file (docs/outside.md)."
        )
    fields = _read_description(path)
    file = ArraysFile.read(path.parent / fields["file"])
    byte_counts: list[int] = []

    def tensor(field: str, key: str, letters: str, sizes: dict[str, int]) -> Tensor:
        array = file.tensor(field, key, letters, sizes)
        byte_counts.append(array.numel() * array.element_size())
        return array

    sizes: dict[str, int] = {}
    images, texts = fields["images"], fields["texts"]
    letters = "Nd" if images["are"] == "features" else "N3SS"
    image_values = tensor("images", images["key"], letters, sizes)
    if problem := _describe_contradiction(image_values, images["are"]):
        raise RecordError(f"{file.path}: {images['key']} {problem}. {HELP}")
    if texts["are"] == "features":
        text_values: Tensor | tuple[str, ...] = tensor("texts", texts["key"], "Ne", sizes).float()
    else:
        text_values = file.captions(texts["key"], sizes["N"])
        byte_counts.append(sum(len(caption.encode()) for caption in text_values))
    similarity = _read_similarity(
        fields["similarity"], lambda key, shape: tensor("similarity", key, shape, sizes), sizes["N"]
    )
    centre = tensor("centre", fields["centre"], "d", sizes).float() if "centre" in fields else None
    rates = fields["rates"] if isinstance(fields["rates"], dict) else dict.fromkeys(("image", "text"), fields["rates"])
    return ForeignSet(
        name=str(fields.get("name", path.stem)),
        source=str(fields.get("source", "")),
        images=_scale_pixels(image_values.float(), images),
        image_encoder=images.get("of", ""),
        texts=text_values,
        text_encoder=texts.get("of", ""),
        similarity=similarity,
        rate_image=file.rate(rates["image"]),
        rate_text=file.rate(rates["text"]),
        loss=fields["loss"],
        stored_bytes=sum(byte_counts) + 16,
        fingerprint=fingerprint("foreign", VERSION, {**fields, "sha256": file.digest}, {}),
        image_centre=centre,
    )


def _describe_contradiction(images: Tensor, kind: str) -> str:
    """Return how the numbers contradict the description; empty if they do not.

    Learned pixels may leave their range a little.
    """
    if images.dtype == torch.uint8 and kind != "pixels-255":
        return f"is uint8, but {kind} must be fractions"
    largest = float(images.abs().max())
    if (kind == "pixels-255" and largest <= 1) or (kind == "pixels-1" and largest > 25):
        return f"has absolute values up to {largest:.3g}, but white is {kind.removeprefix('pixels-')} in {kind}"
    return ""


def _scale_pixels(images: Tensor, description: Mapping[str, Any]) -> Tensor:
    """Return features unchanged, and pixels scaled to 0 to 255."""
    if description["are"] == "normalised":
        mean, std = (torch.tensor(description[name]).float()[:, None, None] for name in ("mean", "std"))
        return 255 * (images * std + mean)
    return 255 * images if description["are"] == "pixels-1" else images


def _read_similarity(description: Any, tensor: Callable[[str, str], Tensor], pairs: int) -> Similarity:
    if description == "none":
        return Similarity("identity", pairs, {})
    if "matrix" in description:
        return Similarity("full", pairs, {"entries": tensor(description["matrix"], "NN").float()})
    shapes = {"diagonal": "N", "left": "Nr", "right": "Nr"}
    factors = {name: tensor(description[name], shape).float() for name, shape in shapes.items()}
    return Similarity("low-rank", pairs, factors, float(description["alpha"]))


def _read_description(path: Path) -> dict[str, Any]:
    """Read a description, and check every field.

    Raises:
        ConfigError: a field is missing, unknown or ambiguous; names the first one, and how to write it.
    """
    fields = read_yaml(path, "description")
    if not isinstance(fields, dict):
        raise ConfigError(
            f"{path} must be a dictionary of a set's fields, not {shown(fields)}. Write {_SYNTAX['file']}."
        )
    for field in fields:
        if field not in (*_SYNTAX, *_OPTIONAL):
            raise ConfigError(f"{path}: there is no field {shown(field)}. Known: {', '.join((*_SYNTAX, *_OPTIONAL))}.")
    is_valid: Mapping[str, Callable[[Any], bool]] = {
        "file": lambda value: _is_key(value) and Path(value).name == value and Path(value).suffix in LOADERS,
        "images": lambda value: _describes_array(value, _IMAGES) and all(map(_is_colour, _colour_lists(value))),
        "texts": lambda value: _describes_array(value, _TEXTS),
        "similarity": _is_similarity,
        "rates": lambda value: (
            _is_rate(value) or (_keys(value) == {"image", "text"} and all(map(_is_rate, value.values())))
        ),
        "loss": lambda value: value in LOSS_NAMES,
    }
    if not _is_key(fields.get("centre", "none")):
        raise ConfigError(f"{path}: centre is {shown(fields['centre'])}, which is not valid. Write `centre: KEY`.")
    for field, syntax in _SYNTAX.items():
        if field not in fields:
            raise ConfigError(f"{path} lacks the field {field}. Write {syntax}.")
        if not is_valid[field](fields[field]):
            raise ConfigError(f"{path}: {field} is {shown(fields[field])}, which is not valid. Write {syntax}.")
    return fields


def _describes_array(value: Any, kinds: Mapping[str, set[str]]) -> bool:
    return (
        isinstance(value, dict)
        and _keys(value) == kinds.get(str(value.get("are")))
        and all(_is_key(value[name]) for name in ("key", "of") if name in value)
    )


def _is_similarity(value: Any) -> bool:
    if value == "none":
        return True
    if _keys(value) == {"matrix"}:
        return _is_key(value["matrix"])
    return (
        _keys(value) == {"diagonal", "left", "right", "alpha"}
        and all(_is_key(value[name]) for name in ("diagonal", "left", "right"))
        and is_number(value["alpha"])
    )


def _colour_lists(value: Mapping[str, Any]) -> Sequence[Any]:
    return [value[name] for name in ("mean", "std") if name in value]


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(is_number, value))


def _is_rate(value: Any) -> bool:
    return _is_key(value) or (is_number(value) and value > 0)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _keys(value: Any) -> set[Any]:
    return set(value) if isinstance(value, dict) else set()
