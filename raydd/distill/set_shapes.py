"""Checks that the stored tensors of a synthetic set fit together: a set may come from a stranger or a damaged disk."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from raydd.distill.loss_names import LOSS_NAMES
from raydd.errors import RecordError, nearest
from raydd.outside import names_code

FACTOR = "similarity."  # prefix of the similarity's factors among the stored tensors
LOSS = "loss."  # prefix of the parameters of a user's own loss, each a number
_FACTORS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "low-rank": {"diagonal": "N", "left": "Nr", "right": "Nr"},
    "full": {"entries": "NN"},
    "identity": {},
}
_HELP = "Copy the set again from an intact copy, or make it again."


def require_consistent(tensors: Mapping[str, Tensor], facts: object) -> None:
    """Check that tensors and facts are those of a synthetic set.

    A set of N pairs has `image_features` [N d], `text_features` [N e], `rates` [2] above zero, `start_images` and
    `start_captions` [N] with indices from 0 on, the factors of its kind of similarity, `pixels` if it has images, uint8
    [N 3 H W], and `image_centre` [d] if students subtract one.

    Raises:
        RecordError: a tensor or a fact is missing or wrong; the message names the first one.
    """
    if not isinstance(facts, Mapping):
        raise _wrong_value(
            "the facts of the set", f"are {_shorten(facts)}", "a mapping with similarity, alpha and loss"
        )
    kind, alpha, loss = facts.get("similarity"), facts.get("alpha"), facts.get("loss")
    if not isinstance(kind, str) or kind not in _FACTORS:
        raise _unknown_value("similarity", kind, _FACTORS)
    if not isinstance(loss, str) or (loss not in LOSS_NAMES and not names_code(loss)):
        raise _unknown_value("loss", loss, LOSS_NAMES)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise _wrong_value("alpha", f"is {_shorten(alpha)}", "a finite number")
    sizes: dict[str, int] = {}
    _require_tensor(tensors, "image_features", "Nd", sizes)
    _require_tensor(tensors, "text_features", "Ne", sizes)
    if "image_centre" in tensors:
        _require_tensor(tensors, "image_centre", "d", sizes)
    rates = _require_tensor(tensors, "rates", "2", sizes)
    if not bool((rates > 0).all()):
        raise _wrong_value("rates", f"are {rates.tolist()}", "above zero")
    for name in ("start_images", "start_captions"):
        starts = _require_tensor(tensors, name, "N", sizes, integers=True)
        if int(starts.min()) < 0:
            raise _wrong_value(name, f"has {int(starts.min())}", "an index from 0 on")
    for name in tensors:
        if name.startswith(LOSS):
            _require_tensor(tensors, name, "", sizes)
    expected_factors = _FACTORS[kind]
    stored_factors = {name.removeprefix(FACTOR) for name in tensors if name.startswith(FACTOR)}
    if stored_factors - set(expected_factors):
        extra = ", ".join(sorted(stored_factors - set(expected_factors)))
        raise _wrong_value(
            "the similarity", f"is {kind} and has {extra}", f"stored as {', '.join(expected_factors) or 'nothing'}"
        )
    for name, letters in expected_factors.items():
        _require_tensor(tensors, FACTOR + name, letters, sizes)
    if "pixels" in tensors:
        pixels = tensors["pixels"]
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[:2] != (sizes["N"], 3) or not pixels.numel():
            raise _wrong_value("pixels", f"are {_describe_tensor(pixels)}", f"uint8 [{sizes['N']} 3 H W]")


def _require_tensor(
    tensors: Mapping[str, Tensor], name: str, letters: Sequence[str], sizes: dict[str, int], *, integers: bool = False
) -> Tensor:
    """Return a tensor, after checking that its numbers are finite and that its shape fits the sizes known so far.

    Args:
        tensors: the tensors of the set, by name.
        name: name of the tensor.
        letters: one letter or number for each dimension; the same letter stands for the same size.
        sizes: known sizes by letter; new ones are added.
        integers: the tensor holds integers instead of floating-point numbers.
    """
    if name not in tensors:
        raise RecordError(f"The synthetic set has no tensor {name}. {_HELP}")
    tensor = tensors[name]
    known_sizes = [int(letter) if letter.isdigit() else sizes.get(letter) for letter in letters]
    fits = tensor.ndim == len(letters) and all(
        size > 0 if known_size is None else size == known_size
        for size, known_size in zip(tensor.shape, known_sizes, strict=True)
    )
    for letter, size in zip(letters, tensor.shape, strict=False):
        fits = fits and sizes.setdefault(letter, size) == size
    right_dtype = tensor.dtype in (torch.int64, torch.int32) if integers else tensor.is_floating_point()
    if not fits or not right_dtype:
        expected = " ".join(
            str(letter if known_size is None else known_size)
            for letter, known_size in zip(letters, known_sizes, strict=True)
        )
        raise _wrong_value(name, f"is {_describe_tensor(tensor)}", f"{'int64' if integers else 'float32'} [{expected}]")
    if not integers and not bool(tensor.double().isfinite().all()):
        raise _wrong_value(name, "has NaN or infinite numbers", "finite")
    return tensor


def _wrong_value(name: str, problem: str, rule: str) -> RecordError:
    return RecordError(f"In the synthetic set {name} {problem}, but must be {rule}. {_HELP}")


def _unknown_value(fact: str, value: object, choices: Iterable[str]) -> RecordError:
    return RecordError(
        f"The synthetic set's {fact} is {_shorten(value)}, which raydd does not know. {_suggest(value, choices)}"
    )


def _suggest(value: object, choices: Iterable[str]) -> str:
    return nearest(str(value)[:100], choices)


def _shorten(value: object) -> str:
    return repr(value)[:60]


def _describe_tensor(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} [{' '.join(map(str, tensor.shape))}]"
