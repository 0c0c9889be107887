"""Reads rows of cached features from memory-mapped shards, without loading the shards.

Letters: n images, V views, C captions, D feature width, B requested rows.
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
    """Image features in half precision, [n V D], in shards of `per_shard` images; the last shard may be shorter."""

    shards: tuple[Float16[Tensor, "_ V D"], ...]
    per_shard: int
    centre: Float[Tensor, "D"] | None = None
    """What `gather` subtracts from each row; None: nothing."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, V, D)."""
        _, views, width = self.shards[0].shape
        return sum(map(len, self.shards)), views, width

    def on(self, device: str) -> "FeatureRows":
        """Copy the rows to a device's memory. The indices for `gather` must then be on that device too."""
        centre = None if self.centre is None else self.centre.to(device)
        return FeatureRows((_join_on_device(self.shards, device),), self.shape[0], centre)

    def gather(self, rows: Int[Tensor, "B"], views: Int[Tensor, "B"] | int) -> Float[Tensor, "B D"]:
        """Return the features of one view of each of the given images, in float32, minus the centre if there is one.

        Args:
            rows: indices of images, 0 to n - 1, in any order; repetitions are allowed.
            views: the view of each image, or one view for all.
        """
        views = torch.full_like(rows, views) if isinstance(views, int) else views
        features = _gather(self.shards, self.per_shard, rows, views).float()
        return features if self.centre is None else features - self.centre


@dataclass(frozen=True)
class CaptionRows:
    """Caption features in half precision, [C D], in shards of `per_shard` captions; the last shard may be shorter."""

    shards: tuple[Float16[Tensor, "_ D"], ...]
    per_shard: int

    def __len__(self) -> int:
        """Number of captions C."""
        return sum(map(len, self.shards))

    @property
    def width(self) -> int:
        """Feature width D."""
        return self.shards[0].shape[1]

    def on(self, device: str) -> "CaptionRows":
        """Copy the rows to a device's memory, as `FeatureRows.on` does."""
        return CaptionRows((_join_on_device(self.shards, device),), len(self))

    def __getitem__(self, captions: Int[Tensor, "B"]) -> Float16[Tensor, "B D"]:
        """Return the features of the given captions, 0 to C - 1, in any order; repetitions are allowed."""
        return _gather(self.shards, self.per_shard, captions)

    def whole(self) -> Float16[Tensor, "C D"]:
        """Return all features in memory: 768 bytes per caption at a width of 384."""
        return torch.cat(self.shards)


def _gather(
    shards: Sequence[Float16[Tensor, "..."]], per_shard: int, rows: Int[Tensor, "B"], *inner: Int[Tensor, "B"]
) -> Float16[Tensor, "B D"]:
    """Gather rows from shards of `per_shard` rows each; `inner` indexes all dimensions of a row but the last."""
    if len(shards) == 1:
        return shards[0][(rows, *inner)]
    gathered = torch.empty(len(rows), shards[0].shape[-1], dtype=shards[0].dtype)
    shard_of_row, row_in_shard = rows.div(per_shard, rounding_mode="floor"), rows % per_shard
    order = shard_of_row.argsort()
    shard_numbers, counts = shard_of_row[order].unique_consecutive(return_counts=True)
    for shard, positions in zip(shard_numbers.tolist(), order.split(counts.tolist()), strict=True):
        gathered[positions] = shards[shard][(row_in_shard[positions], *(index[positions] for index in inner))]
    return gathered


def _join_on_device(shards: Sequence[Float16[Tensor, "..."]], device: str) -> Float16[Tensor, "..."]:
    """Join all shards to one tensor on a device, copying one shard after the other."""
    joined = torch.empty(sum(map(len, shards)), *shards[0].shape[1:], dtype=shards[0].dtype, device=device)
    for part, shard in zip(joined.split([len(shard) for shard in shards]), shards, strict=True):
        part.copy_(shard)
    return joined


def map_shard(path: Path, name: str, shape: Sequence[int | None]) -> Float16[Tensor, "..."]:
    """Map the features of one shard into memory; a page is read when it is first used.

    Args:
        path: a safetensors file on this machine. Its length is checked against its header on opening.
        name: name of the tensor in the file.
        shape: the required shape; None allows any length.

    Raises:
        RecordError: the file is damaged, cut short, or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise RecordError(f"{path} is damaged ({error}). {HOW_TO_MEND}") from error
    fits = tensor.ndim == len(shape) and all(
        required in (None, actual) for required, actual in zip(shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype != torch.float16:
        raise RecordError(
            f"{path} holds {tuple(tensor.shape)} in {tensor.dtype}, wanted {tuple(shape)} in float16. {HOW_TO_MEND}"
        )
    return tensor


def mean_and_std(chunks: Iterable[Float16[Tensor, "_ D"]]) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
    """Return mean and population standard deviation of each column over all chunks, one chunk in memory at a time."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for chunk in chunks:
        rows = chunk.double()
        count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


HOW_TO_MEND = (
    "Delete this file and the manifest.json of its record, and run `raydd features` again with the same settings: "
    "it encodes what is missing."
)
