"""Cached features: rows of memory-mapped shards, read without loading them.

Letters: n images, V views, C captions, D feature width, B rows asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float16, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from raydd.errors import RecordError


@dataclass(frozen=True)
class FeatureRows:
    """Image features in half precision, [n V D], in shards of `per_shard` images, the last one shorter."""

    shards: tuple[Float16[Tensor, "_ V D"], ...]
    per_shard: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, V, D)."""
        _, views, width = self.shards[0].shape
        return sum(map(len, self.shards)), views, width

    def on(self, device: str) -> "FeatureRows":
        """The same rows in a device's memory, to be gathered there by indices that are there."""
        return FeatureRows((_joined_on(self.shards, device),), self.shape[0])

    def gather(self, rows: Int[Tensor, "B"], views: Int[Tensor, "B"] | int) -> Float[Tensor, "B D"]:
        """The features of one view of each of these images, in float32.

        Args:
            rows: images, 0 to n - 1, in any order, repeated or not.
            views: the view of each, or one for all.
        """
        views = torch.full_like(rows, views) if isinstance(views, int) else views
        return _gather(self.shards, self.per_shard, rows, views).float()


@dataclass(frozen=True)
class CaptionRows:
    """Caption features in half precision, [C D], in shards of `per_shard` captions, the last one shorter."""

    shards: tuple[Float16[Tensor, "_ D"], ...]
    per_shard: int

    def __len__(self) -> int:
        """Captions C."""
        return sum(map(len, self.shards))

    @property
    def width(self) -> int:
        """Feature width D."""
        return self.shards[0].shape[1]

    def on(self, device: str) -> "CaptionRows":
        """As `FeatureRows.on`."""
        return CaptionRows((_joined_on(self.shards, device),), len(self))

    def __getitem__(self, captions: Int[Tensor, "B"]) -> Float16[Tensor, "B D"]:
        """The features of these captions, 0 to C - 1, in any order, repeated or not."""
        return _gather(self.shards, self.per_shard, captions)

    def whole(self) -> Float16[Tensor, "C D"]:
        """All of them in memory: 768 bytes each at a width of 384."""
        return torch.cat(self.shards)


def _gather(
    shards: Sequence[Float16[Tensor, "..."]], per_shard: int, rows: Int[Tensor, "B"], *inner: Int[Tensor, "B"]
) -> Float16[Tensor, "B D"]:
    """Rows of shards that hold `per_shard` of them; `inner` indexes what a row holds but its last dimension."""
    if len(shards) == 1:
        return shards[0][(rows, *inner)]
    out = torch.empty(len(rows), shards[0].shape[-1], dtype=shards[0].dtype)
    places, within = rows.div(per_shard, rounding_mode="floor"), rows % per_shard
    order = places.argsort()
    present, counts = places[order].unique_consecutive(return_counts=True)
    for shard, at in zip(present.tolist(), order.split(counts.tolist()), strict=True):
        out[at] = shards[shard][(within[at], *(index[at] for index in inner))]
    return out


def _joined_on(shards: Sequence[Float16[Tensor, "..."]], device: str) -> Float16[Tensor, "..."]:
    """All shards as one tensor on a device, copied one after the other."""
    whole = torch.empty(sum(map(len, shards)), *shards[0].shape[1:], dtype=shards[0].dtype, device=device)
    for part, shard in zip(whole.split([len(shard) for shard in shards]), shards, strict=True):
        part.copy_(shard)
    return whole


def map_shard(path: Path, name: str, shape: Sequence[int | None]) -> Float16[Tensor, "..."]:
    """The features of one shard, mapped into memory: pages are read when they are touched.

    Args:
        path: a safetensors file on this machine. Its header says how long it must be, which is checked on opening.
        name: the tensor in it.
        shape: the shape it must have; None stands for any length.

    Raises:
        RecordError: the file is damaged, cut short, or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise RecordError(f"{path} is damaged ({error}). {HOW_TO_MEND}") from error
    fits = tensor.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, tensor.shape, strict=True))
    if not fits or tensor.dtype != torch.float16:
        raise RecordError(
            f"{path} holds {tuple(tensor.shape)} in {tensor.dtype}, wanted {tuple(shape)} in float16. {HOW_TO_MEND}"
        )
    return tensor


def mean_and_std(chunks: Iterable[Float16[Tensor, "_ D"]]) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
    """Mean and (population) standard deviation of each column over the rows of all chunks, one chunk in memory."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for chunk in chunks:
        rows = chunk.double()
        count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


HOW_TO_MEND = (
    "Delete it and the manifest.json of its record, and run `raydd features` with the same settings again: "
    "it encodes what is missing."
)
