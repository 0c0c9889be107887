"""Encodes images and captions with the frozen encoders, on all CPU cores or on a GPU.

On a CPU each worker process takes its items all the way from file to features on one core. This scales with the number
of cores. A single network on several threads waits at each layer for its slowest thread, and waits long on a busy
machine. With a GPU the workers decode and augment, and this process encodes.

Letters: b items of a batch, V views, S side in pixels, D width.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float16, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from raydd.data.augment import Transform, views_of
from raydd.data.encoders import ImageEncoder, TextEncoder
from raydd.data.images import ImageSource, open_image
from raydd.device import in_tf32, queue_copy, sent
from raydd.errors import DataError

Item = TypeVar("Item")

_CPU_IMAGES = 8  # images in a worker's batch
_CPU_CAPTIONS = 256  # captions in a worker's batch; the encoder sorts them by length and takes some at a time
_CPU_VIEWS = 2  # views per forward pass: their activations stay in the CPU's cache (twice the speed of 64)
_GPU_CAPTIONS = 512  # captions per forward pass on a GPU
_FEW = 64  # fewer views or captions than this are encoded faster without starting workers


@dataclass(frozen=True)
class ViewsOf(Dataset):
    """Views of each image of a split. A broken image gives the error's text, which the main process raises."""

    images: Sequence[ImageSource]
    transform: Transform
    views: int
    seed: int

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> UInt8[Tensor, "V 3 S S"] | str:
        """Return the views of one image, which is decoded once."""
        try:
            image = open_image(self.images[index])
        except DataError as error:
            return str(error)
        return views_of(image, self.transform, self.views, seed=self.seed, index=index)


def encode_views(
    encoder: ImageEncoder, views: ViewsOf, batches: Sequence[Sequence[int]], *, device: str, workers: int
) -> Iterator[Float16[Tensor, "b V D"]]:
    """Yield the features of each batch of images, in the order of the batches.

    Args:
        encoder: the image encoder, on `device`.
        views: the images and how their views are made.
        batches: indices of images. On a GPU a batch is one forward pass.
        device: where the encoder is.
        workers: number of worker processes in addition to this process; 0 for none.

    Raises:
        DataError: an image has become unreadable, or its features are NaN, infinite or beyond half precision.
    """
    views_per_pass = _CPU_VIEWS if _is_cpu(device) else len(batches[0]) * views.views if batches else 1
    module = encoder.fast  # made before the workers start, so that they inherit and share it

    @in_tf32()
    def compute_features(pixels: UInt8[Tensor, "b V 3 S S"]) -> Float16[Tensor, "b V D"]:
        parts = pixels.flatten(0, 1).split(views_per_pass)
        with torch.no_grad():
            rows = torch.cat([module(sent(part, device).float() / 255) for part in parts])
        return rows.half().unflatten(0, pixels.shape[:2])

    few = sum(map(len, batches)) * views.views < _FEW
    for batch in _encode_batches(views, batches, _stacked, compute_features, device, 0 if few else workers):
        yield _require_finite(batch, "image features")


def open_views(
    views: ViewsOf, batches: Sequence[Sequence[int]], *, workers: int
) -> Iterator[UInt8[Tensor, "b V 3 S S"]]:
    """Yield the pixels of each batch of images, in the order of the batches, to train a network on them.

    Args:
        views: the images and how their views are made.
        batches: indices of images.
        workers: number of processes that decode, in addition to this process; 0 for none.

    Raises:
        DataError: an image has become unreadable.
    """
    yield from _load_batches(views, batches, _stacked, workers)


def encode_captions(
    encoder: TextEncoder, captions: Sequence[str], batches: Sequence[Sequence[int]], *, device: str, workers: int
) -> Iterator[Float16[Tensor, "b D"]]:
    """Yield the features of each batch of captions in order. Arguments are those of `encode_views`.

    With a GPU there are no workers, since the encoder tokenizes captions in this process.
    """

    def compute_features(items: Sequence[str]) -> Float16[Tensor, "b D"]:
        return encoder.encode(items).half()

    if not _is_cpu(device) or sum(map(len, batches)) < _FEW:
        workers = 0
    for batch in _encode_batches(captions, batches, list, compute_features, device, workers):
        if batch.shape[1:] != (encoder.width,):
            raise DataError(
                f"The text encoder {encoder.name} declares a width of {encoder.width}, but returns features of width "
                f"{' x '.join(map(str, batch.shape[1:]))}. Correct the width of its TextTower."
            )
        yield _require_finite(batch, "caption features")


def images_at_once(device: str, views: int, views_at_once: int) -> int:
    """Number of images in a batch: few on a CPU, and on a GPU as many as have `views_at_once` views together."""
    return _CPU_IMAGES if _is_cpu(device) else max(1, views_at_once // views)


def captions_at_once(device: str) -> int:
    """Number of captions in a batch."""
    return _CPU_CAPTIONS if _is_cpu(device) else _GPU_CAPTIONS


def workers_for(device: str) -> int:
    """Number of worker processes: as many as torch may use threads, but 0 for a single thread on a CPU."""
    threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    return threads if threads > 1 or not _is_cpu(device) else 0


def batches_of(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Cut items, mostly indices, into batches; the last batch may be shorter."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _stacked(items: Sequence[UInt8[Tensor, "V 3 S S"] | str]) -> UInt8[Tensor, "b V 3 S S"] | str:
    """Stack items to a batch; if an item is broken, return the text of its error instead."""
    error_text = next((item for item in items if isinstance(item, str)), None)
    return error_text or torch.stack(list(items))  # type: ignore[arg-type]


def _encode_batches(
    items: Any,
    batches: Sequence[Sequence[int]],
    prepare: Callable[[Sequence], Any],
    compute_features: Callable[[Any], Tensor],
    device: str,
    workers: int,
) -> Iterator[Tensor]:
    """Prepare each batch in a worker and compute its features: on a CPU in the worker, on a GPU in this process.

    A GPU gets its next batch before this process waits for the features of the one before, and only for those.
    """
    encode_in_worker = _is_cpu(device)

    def in_worker(batch: Sequence) -> Any:
        prepared = prepare(batch)
        return compute_features(prepared) if encode_in_worker and not isinstance(prepared, str) else prepared

    if encode_in_worker:
        yield from _load_batches(items, batches, in_worker, workers)
        return
    previous: Callable[[], Tensor] | None = None
    for batch in _load_batches(items, batches, in_worker, workers, pinned=device.startswith("cuda")):
        current = queue_copy(compute_features(batch))
        if previous is not None:
            yield previous()
        previous = current
    if previous is not None:
        yield previous()


def _load_batches(
    items: Any,
    batches: Sequence[Sequence[int]],
    prepare: Callable[[Sequence], Any],
    workers: int,
    *,
    pinned: bool = False,
) -> Iterator[Any]:
    """Yield what `prepare` returns for each batch in a worker; if it returns a text, raise that as a `DataError`.

    With `pinned`, a thread of this process pins the tensors, so that their copies to a GPU can be queued.
    """
    loader = DataLoader(
        items,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=prepare,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # otherwise the loader would draw from the caller's random state
    )
    for batch in loader:
        if isinstance(batch, str):  # as an exception it would arrive wrapped in the worker's traceback
            raise DataError(batch)
        yield batch


def _is_cpu(device: str) -> bool:
    return torch.device(device).type == "cpu"


def _require_finite(features: Tensor, description: str) -> Tensor:
    if not bool(features.isfinite().all()):
        raise DataError(
            f"Some {description} are NaN, infinite or beyond half precision (65504). Check the encoder's weights, "
            "or use another encoder."
        )
    return features
