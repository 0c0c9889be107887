"""Images and captions through the frozen encoders, over all cores or on a GPU.

On a CPU every worker process does the whole way of its items on one core, from file to features: that scales with the
cores, while one network on several threads waits for its slowest at each layer (and waits long on a busy machine). With
a GPU the workers decode and augment, and this process encodes.

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
from raydd.errors import DataError
from raydd.place import sent

Item = TypeVar("Item")

_CPU_IMAGES = 8  # that a worker takes at once
_CPU_CAPTIONS = 256  # likewise; its encoder sorts them by tokens and takes some at a time
_CPU_VIEWS = 2  # views through the network at once: their activations stay in the cache (twice the speed of 64)
_GPU_CAPTIONS = 64
_FEW = 64  # so few views are encoded sooner than workers start


@dataclass(frozen=True)
class ViewsOf(Dataset):
    """The views of each image of a split; a broken image gives the error's text, for the main process to raise."""

    images: Sequence[ImageSource]
    transform: Transform
    views: int
    seed: int

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> UInt8[Tensor, "V 3 S S"] | str:
        """The views of one image, decoded once."""
        try:
            image = open_image(self.images[index])
        except DataError as error:
            return str(error)
        return views_of(image, self.transform, self.views, seed=self.seed, index=index)


def encode_views(
    encoder: ImageEncoder, views: ViewsOf, batches: Sequence[Sequence[int]], *, device: str, workers: int
) -> Iterator[Float16[Tensor, "b V D"]]:
    """Features of each batch of images, in the batches' order.

    Args:
        encoder: on `device`.
        views: the images and how their views are made.
        batches: indices of images; a GPU's network takes one in a pass.
        device: where the encoder is.
        workers: processes, 0 for none beside this one.

    Raises:
        DataError: an image has become unreadable, or its features have no half-precision number.
    """
    at_once = _CPU_VIEWS if _is_cpu(device) else len(batches[0]) * views.views if batches else 1
    module = encoder.fast  # made here, since workers share what they inherit

    def features(pixels: UInt8[Tensor, "b V 3 S S"]) -> Float16[Tensor, "b V D"]:
        parts = pixels.flatten(0, 1).split(at_once)
        with torch.no_grad():
            rows = torch.cat([module(sent(part, device).float() / 255) for part in parts])
        return rows.half().unflatten(0, pixels.shape[:2])

    few = sum(map(len, batches)) * views.views < _FEW
    for batch in _through_workers(views, batches, _stacked, features, device, 0 if few else workers):
        yield _finite(batch, "image features")


def open_views(
    views: ViewsOf, batches: Sequence[Sequence[int]], *, workers: int
) -> Iterator[UInt8[Tensor, "b V 3 S S"]]:
    """The pixels of each batch of images, in the batches' order, for a network that is trained on them.

    Args:
        views: the images and how their views are made.
        batches: indices of images.
        workers: processes that decode, 0 for none beside this one.

    Raises:
        DataError: an image has become unreadable.
    """
    yield from _loaded(views, batches, _stacked, workers)


def encode_captions(
    encoder: TextEncoder, captions: Sequence[str], batches: Sequence[Sequence[int]], *, device: str, workers: int
) -> Iterator[Float16[Tensor, "b D"]]:
    """Features of each batch of captions, in the batches' order; arguments as those of `encode_views`."""

    def features(items: Sequence[str]) -> Float16[Tensor, "b D"]:
        return encoder.encode(items).half()

    few = sum(map(len, batches)) < _FEW
    for batch in _through_workers(captions, batches, list, features, device, 0 if few else workers):
        if batch.shape[1:] != (encoder.width,):
            raise DataError(
                f"The text encoder {encoder.name} is said to be {encoder.width} wide, and gives features of "
                f"{' x '.join(map(str, batch.shape[1:]))}. Put its TextTower's width right."
            )
        yield _finite(batch, "caption features")


def images_at_once(device: str, views: int, views_at_once: int) -> int:
    """Images in a batch: few on a CPU, and as many as give a GPU `views_at_once` views."""
    return _CPU_IMAGES if _is_cpu(device) else max(1, views_at_once // views)


def captions_at_once(device: str) -> int:
    """Captions in a batch."""
    return _CPU_CAPTIONS if _is_cpu(device) else _GPU_CAPTIONS


def workers_for(device: str) -> int:
    """Processes beside this one: as many as torch may use threads, if they encode or if there is a GPU to feed."""
    threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    return threads if threads > 1 or not _is_cpu(device) else 0


def batches_of(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Items, mostly indices, cut into batches, the last one shorter."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _stacked(items: Sequence[UInt8[Tensor, "V 3 S S"] | str]) -> UInt8[Tensor, "b V 3 S S"] | str:
    """A batch of items; the text of an error, if one is broken."""
    broken = next((item for item in items if isinstance(item, str)), None)
    return broken or torch.stack(list(items))  # type: ignore[arg-type]


def _through_workers(
    items: Any,
    batches: Sequence[Sequence[int]],
    prepare: Callable[[Sequence], Any],
    features: Callable[[Any], Tensor],
    device: str,
    workers: int,
) -> Iterator[Tensor]:
    """Prepare each batch in a worker and take its features: there on a CPU, here on a GPU.

    A GPU's features are waited for when it has the next batch to work on.
    """
    encode_there = _is_cpu(device)

    def in_worker(batch: Sequence) -> Any:
        prepared = prepare(batch)
        return features(prepared) if encode_there and not isinstance(prepared, str) else prepared

    if encode_there:
        yield from _loaded(items, batches, in_worker, workers)
        return
    before: Tensor | None = None
    for batch in _loaded(items, batches, in_worker, workers, pinned=device.startswith("cuda")):
        after = features(batch)
        if before is not None:
            yield before.cpu()
        before = after
    if before is not None:
        yield before.cpu()


def _loaded(
    items: Any,
    batches: Sequence[Sequence[int]],
    prepare: Callable[[Sequence], Any],
    workers: int,
    *,
    pinned: bool = False,
) -> Iterator[Any]:
    """What `prepare` makes of each batch in a worker; where it is a text, the data are at fault, and it says how.

    Tensors come `pinned`, by a thread of this process, so that their copies to a GPU can be queued.
    """
    loader = DataLoader(
        items,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=prepare,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # else the loader draws from the caller's random state
    )
    for batch in loader:
        if isinstance(batch, str):  # as an exception it would arrive wrapped in the worker's traceback
            raise DataError(batch)
        yield batch


def _is_cpu(device: str) -> bool:
    return torch.device(device).type == "cpu"


def _finite(features: Tensor, what: str) -> Tensor:
    if not bool(features.isfinite().all()):
        raise DataError(
            f"Some {what} are NaN, infinite or beyond half precision (65504). Check the encoder's weights, "
            "or use another encoder."
        )
    return features
