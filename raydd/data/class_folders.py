"""Lists labelled images: a folder with one subfolder per class, the layout of ImageNet and its subsets."""

import json
from dataclasses import dataclass
from pathlib import Path

from raydd.data.images import SUFFIXES, FileImage
from raydd.errors import DataError
from raydd.plain_files import is_plain, read_file

NAMES = "classes.json"
_MOST_NAMES = 2**26  # maximum size of the file, in bytes


@dataclass(frozen=True)
class ClassImages:
    """Images and the class of each."""

    images: tuple[FileImage, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    """Name of each class in words."""


def read_classes(root: Path) -> ClassImages:
    """List the images of a folder of class folders, sorted.

    Class names come from `classes.json` in the folder or in its parent folder, else from the names of the subfolders.

    Raises:
        DataError: the folder does not exist, holds no image, or its `classes.json` lacks a class.
    """
    if not root.is_dir():
        raise DataError(f"evaluate.classes: {root} is not a folder. Set it to a folder with one subfolder per class.")
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    files_by_class = [sorted(path for path in folder.rglob("*") if _is_image(path, root)) for folder in folders]
    if not any(files_by_class):
        raise DataError(
            f"evaluate.classes: no subfolder of {root} holds an image. "
            "Set it to the folder that holds the class folders."
        )
    class_names = _read_class_names(root)
    unnamed = [folder.name for folder in folders if class_names and folder.name not in class_names]
    if unnamed:
        raise DataError(f"{NAMES} of {root} has no name for {', '.join(unnamed)}. Add it, or move the folder away.")
    return ClassImages(
        tuple(FileImage(str(path.relative_to(root)), str(path)) for files in files_by_class for path in files),
        tuple(label for label, files in enumerate(files_by_class) for _ in files),
        tuple(class_names.get(folder.name, folder.name.replace("_", " ")) for folder in folders),
    )


def _is_image(path: Path, root: Path) -> bool:
    """Return whether a path ends like an image file, and is no pipe, device or link that leaves the folder."""
    return path.suffix.lower() in SUFFIXES and is_plain(path, root)


def _read_class_names(root: Path) -> dict[str, str]:
    for folder in (root, root.parent):
        if (folder / NAMES).is_file():
            try:
                class_names = json.loads(read_file(folder / NAMES, _MOST_NAMES))
                return {str(key): str(value) for key, value in class_names.items()}
            except (OSError, ValueError, AttributeError, RecursionError) as error:
                raise DataError(f"{folder / NAMES} does not map folders to names as JSON ({error}).") from error
    return {}
