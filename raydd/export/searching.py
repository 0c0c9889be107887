"""Retrieval by a student of a synthetic set: photographs of a folder, the nearest to a text or to an image first."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.config import Config
from raydd.data import ImageEncoder, load_image_encoder, load_text_encoder
from raydd.data.images import FileImage
from raydd.distill.heads import embed
from raydd.errors import DataError
from raydd.export.encoding import encode_images, encoders_of
from raydd.export.students import train_student
from raydd.place import device_of
from raydd.progress import Progress, silent
from raydd.sets.read import OpenedSet
from raydd.store import Record, Store

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
VERSION = 1


@dataclass(frozen=True)
class Found:
    """One photograph, and how near it is to the query: the cosine of the student's embeddings."""

    path: Path
    cosine: float


def search(
    opened: OpenedSet, query: str, folder: Path, config: Config, store: Store, progress: Progress = silent
) -> list[Found]:
    """All photographs of a folder, the nearest to the query first.

    The folder's features are kept in the store, so that a second search only trains its student.

    Args:
        opened: the synthetic set that the student trains on.
        query: a text, or the path of an image.
        folder: where the photographs are, folders in it included.
        config: the students' recipe, the encoders' weights, where to compute.
        store: where the folder's features are kept.
        progress: told about encoded photographs.

    Raises:
        DataError: there is no photograph, or one cannot be read.
    """
    device = device_of(config.place)
    paths = photographs(folder)
    encoder = load_image_encoder(encoders_of(opened, config), device)
    image_head, text_head = train_student(opened, config.students, device)
    features = _features(encoder, paths, folder, config, store, device, progress)
    with torch.no_grad():
        if Path(query).is_file():
            asked = encode_images(encoder, [FileImage(query, query)], config, device)
            wanted = embed(image_head, asked)
        else:
            text_encoder = load_text_encoder(encoders_of(opened, config), device)
            wanted = embed(text_head, text_encoder.encode([query]).float().cpu())
        cosines = (embed(image_head, features) @ wanted.T)[:, 0]
    order = cosines.argsort(descending=True).tolist()
    return [Found(paths[place], float(cosines[place])) for place in order]


def photographs(folder: Path) -> list[Path]:
    """The pictures of a folder and of those in it, by name.

    Raises:
        DataError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"There is no picture in {folder} ({', '.join(SUFFIXES)}). Give another folder with --in.")
    return found


def _features(
    encoder: ImageEncoder,
    paths: Sequence[Path],
    folder: Path,
    config: Config,
    store: Store,
    device: str,
    progress: Progress,
) -> Float[Tensor, "n d"]:
    """The photographs' features, from the store where names, sizes and times are those that were encoded."""
    listed = [f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]
    files = hashlib.sha256("\n".join(listed).encode()).hexdigest()
    record = Record.of(store, "searched", {"image": encoder.identity, "files": files}, {}, version=VERSION)
    if not record.complete:
        images = [FileImage(path.name, str(path)) for path in paths]
        features = encode_images(encoder, images, config, device, progress)
        record.write_tensors("features.safetensors", {"features": features})
        record.finish(facts={"photographs": len(paths)})
    return record.read_tensors("features.safetensors")["features"]
