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


def require_consistent(named: Mapping[str, Tensor], facts: object) -> None:
    """Check that tensors and facts are those of a synthetic set.

    A set of N pairs has `image_features` [N d], `text_features` [N e], `rates` [2] above zero, `start_images` and
    `start_captions` [N] with indices from 0 on, the factors of its kind of similarity, and, if it has images, `pixels`,
    uint8 [N 3 H W].

    Raises:
        RecordError: a tensor or a fact is missing or wrong; the message names the first one.
    """
    if not isinstance(facts, Mapping):
        raise _wrong("the facts of the set", f"are {_short(facts)}", "a mapping with similarity, alpha and loss")
    kind, alpha, loss = facts.get("similarity"), facts.get("alpha"), facts.get("loss")
    if not isinstance(kind, str) or kind not in _FACTORS:
        raise _unknown("similarity", kind, _FACTORS)
    if not isinstance(loss, str) or (loss not in LOSS_NAMES and not names_code(loss)):
        raise _unknown("loss", loss, LOSS_NAMES)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise _wrong("alpha", f"is {_short(alpha)}", "a finite number")
    sizes: dict[str, int] = {}
    _require(named, "image_features", "Nd", sizes)
    _require(named, "text_features", "Ne", sizes)
    rates = _require(named, "rates", "2", sizes)
    if not bool((rates > 0).all()):
        raise _wrong("rates", f"are {rates.tolist()}", "above zero")
    for name in ("start_images", "start_captions"):
        starts = _require(named, name, "N", sizes, whole=True)
        if int(starts.min()) < 0:
            raise _wrong(name, f"has {int(starts.min())}", "an index from 0 on")
    for name in named:
        if name.startswith(LOSS):
            _require(named, name, "", sizes)
    expected_factors = _FACTORS[kind]
    stored_factors = {name.removeprefix(FACTOR) for name in named if name.startswith(FACTOR)}
    if stored_factors - set(expected_factors):
        extra = ", ".join(sorted(stored_factors - set(expected_factors)))
        raise _wrong(
            "the similarity", f"is {kind} and has {extra}", f"stored as {', '.join(expected_factors) or 'nothing'}"
        )
    for name, letters in expected_factors.items():
        _require(named, FACTOR + name, letters, sizes)
    if "pixels" in named:
        pixels = named["pixels"]
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[:2] != (sizes["N"], 3) or not pixels.numel():
            raise _wrong("pixels", f"are {_shape(pixels)}", f"uint8 [{sizes['N']} 3 H W]")


def _require(
    named: Mapping[str, Tensor], name: str, letters: Sequence[str], sizes: dict[str, int], *, whole: bool = False
) -> Tensor:
    """Return a tensor, after checking that its numbers are finite and that its shape fits the sizes known so far.

    Args:
        named: the tensors.
        name: name of the tensor.
        letters: one letter or number for each dimension; the same letter stands for the same size.
        sizes: known sizes by letter; new ones are added.
        whole: the tensor holds integers instead of floating-point numbers.
    """
    if name not in named:
        raise RecordError(f"The synthetic set has no tensor {name}. {_HELP}")
    tensor = named[name]
    known_sizes = [int(letter) if letter.isdigit() else sizes.get(letter) for letter in letters]
    fits = tensor.ndim == len(letters) and all(
        size > 0 if known_size is None else size == known_size
        for size, known_size in zip(tensor.shape, known_sizes, strict=True)
    )
    for letter, size in zip(letters, tensor.shape, strict=False):
        fits = fits and sizes.setdefault(letter, size) == size
    right_dtype = tensor.dtype in (torch.int64, torch.int32) if whole else tensor.is_floating_point()
    if not fits or not right_dtype:
        expected = " ".join(
            str(letter if known_size is None else known_size)
            for letter, known_size in zip(letters, known_sizes, strict=True)
        )
        raise _wrong(name, f"is {_shape(tensor)}", f"{'int64' if whole else 'float32'} [{expected}]")
    if not whole and not bool(tensor.double().isfinite().all()):
        raise _wrong(name, "has NaN or infinite numbers", "finite")
    return tensor


def _wrong(name: str, what: str, rule: str) -> RecordError:
    return RecordError(f"In the synthetic set {name} {what}, but must be {rule}. {_HELP}")


def _unknown(fact: str, value: object, known: Iterable[str]) -> RecordError:
    return RecordError(
        f"The synthetic set's {fact} is {_short(value)}, which raydd does not know. {_guess(value, known)}"
    )


def _guess(value: object, known: Iterable[str]) -> str:
    return nearest(str(value)[:100], known)


def _short(value: object) -> str:
    return repr(value)[:60]


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} [{' '.join(map(str, tensor.shape))}]"
