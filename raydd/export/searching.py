"""Retrieval by a student of a synthetic set: finds the photographs of a folder nearest to a text or an image."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydd.data.checking import image_digests
from raydd.data.images import SUFFIXES, FileImage, read_image
from raydd.errors import DataError
from raydd.plain_files import is_plain
from raydd.protocols import Workbench
from raydd.sets.read import OpenedSet


@dataclass(frozen=True)
class Match:
    """One photograph, and the cosine between its embedding and that of the query."""

    path: Path
    cosine: float


def search(opened: OpenedSet, query: str, folder: Path, work: Workbench[Any]) -> list[Match]:
    """Return all photographs of a folder, the nearest to the query first.

    Features of the photographs that all students share are kept in the store, so a second search only trains its
    student.

    Args:
        opened: the synthetic set that the student trains on.
        query: a text, or the path of an image.
        folder: folder of the photographs, searched with its subfolders.
        work: workbench of the settings that made the set.

    Raises:
        DataError: there is no photograph, or one cannot be read.
    """
    paths = photographs(folder)
    images = [FileImage(path.name, str(path)) for path in paths]
    digests = image_digests(images, str(folder.absolute()), work.store, work.progress)
    gallery = work.gallery(images, hashlib.sha256(" ".join(digests).encode()).hexdigest())
    (student,) = work.train_students(opened.synthetic, [0])
    if os.path.isfile(query):  # noqa: PTH113, Path.is_file raises an error for a long text
        query_image = FileImage(query, query)
        query_embedding = work.embed_images(
            student, work.gallery([query_image], hashlib.sha256(read_image(query_image)).hexdigest())
        )[0]
    else:
        query_embedding = work.embed_texts(student, work.text_encoder.encode([query]).float().cpu())[0]
    cosines = (work.embed_images(student, gallery)[0] @ query_embedding.T)[:, 0]
    order = cosines.argsort(descending=True).tolist()
    return [Match(paths[index], float(cosines[index])) for index in order]


def photographs(folder: Path) -> list[Path]:
    """Return the pictures of a folder and its subfolders, sorted by path.

    Pipes, devices and links to files outside the folder are skipped.

    Raises:
        DataError: there is no picture.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and is_plain(path, folder))
    if not paths:
        raise DataError(f"There is no picture in {folder} ({', '.join(SUFFIXES)}). Give another folder with --in.")
    return paths
