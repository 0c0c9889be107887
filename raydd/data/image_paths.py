"""Confines image paths to the folders of a data set, and stores them relative to these folders.

So a path from an annotation file or a reader cannot lead to a file outside the data set. A machine that has the data
elsewhere finds the images by its own `data.root`.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from raydd.config import DataConfig
from raydd.data.images import FileImage
from raydd.data.listing import Entry, Problem
from raydd.errors import DataError
from raydd.plain_files import expanded

# Folders that a stored path can be relative to. The path is stored with its index into BASES. The bundled data set is
# in the package.
BASES = ("nothing", "data.images", "data.root", "the package")


@dataclass(frozen=True)
class ImagePaths:
    """The folders of a data set on this machine."""

    folders: dict[str, str]
    """Absolute path of each folder, by its name in `BASES`."""
    _cached_folders: dict[str, tuple[int, str]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, config: DataConfig) -> "ImagePaths":
        """Return the folders that the settings name."""
        folders = {}
        root = expanded(config.root, "data.root").absolute()
        if config.images:
            folders["data.images"] = os.path.normpath(root / expanded(config.images, "data.images"))
        if config.root:
            folders["data.root"] = os.path.normpath(root)
        return cls({**folders, "the package": str(Path(__file__).parent)})

    def relative(self, path: str) -> tuple[int, str]:
        """Return the index in `BASES` of the folder that a path is relative to, and the rest of the path."""
        folder, name = os.path.split(path)
        if folder not in self._cached_folders:  # many images share few folders
            self._cached_folders[folder] = self._relative_folder(folder)
        base, rest = self._cached_folders[folder]
        return base, f"{rest}/{name}" if rest else name

    def absolute(self, base: int, path: str) -> str:
        """Return the path on this machine for a result of `relative`, which may be from another machine.

        Raises:
            DataError: the setting that names the folder is empty on this machine.
        """
        name = BASES[base]
        if not base:
            return path
        if name not in self.folders:
            raise DataError(f"The data set was listed with {name}, which is empty here. Set it to the data's folder.")
        return f"{self.folders[name]}/{path}"

    def _relative_folder(self, folder: str) -> tuple[int, str]:
        full_path = os.path.abspath(folder)  # noqa: PTH100, a Path would keep '..'
        for name, base in self.folders.items():
            for path, base_path in ((full_path, base), (os.path.realpath(full_path), os.path.realpath(base))):
                if _is_within(path, base_path):
                    return BASES.index(name), path.removeprefix(base_path).lstrip(os.sep)
        return 0, full_path


def confined(entries: Iterable[Entry], config: DataConfig) -> tuple[tuple[Entry, ...], tuple[Problem, ...]]:
    """Leave out image files that lie outside `data.root` and `data.images`, after following links.

    Images inside Parquet or tar files stay, and so do all images if `data.root` is empty.

    Args:
        entries: as a reader returned them.
        config: names the folders.
    """
    if not config.root:
        return tuple(entries), ()
    folders = ImagePaths.of(config).folders
    allowed_folders = [folders[name] for name in ("data.images", "data.root") if name in folders]
    return confined_to(entries, allowed_folders, "data.root and data.images")


def confined_to(
    entries: Iterable[Entry], folders: Iterable[str], description: str
) -> tuple[tuple[Entry, ...], tuple[Problem, ...]]:
    """Leave out image files that lie outside the given folders, after following links.

    Args:
        entries: as a reader returned them.
        folders: the allowed folders, which may be links themselves.
        description: the folders in words, for messages.
    """
    allowed_folders = [os.path.realpath(folder) for folder in folders]
    allowed: list[Entry] = []
    problems: list[Problem] = []
    cache: dict[str, bool] = {}
    for entry in entries:
        if isinstance(entry.image, FileImage) and not _is_inside(entry.image.path, allowed_folders, cache):
            why = _why_outside(entry.image.path, description)
            problems.append(Problem("image path outside", entry.image.name, why))
        else:
            allowed.append(entry)
    return tuple(allowed), tuple(problems)


def find_images(root: Path, names: Sequence[str]) -> str:
    """Return the folder below `root` that holds most of the given images, "" if no folder holds any.

    Args:
        root: the data set's folder.
        names: the images' paths as the data set gives them.
    """
    best_folder, best_count = "", 0
    for folder, subfolders, _ in islice(os.walk(root), _FOLDERS):
        relative_folder = os.path.relpath(folder, root)
        subfolders.sort()
        if relative_folder.count(os.sep) >= _DEPTH:
            subfolders.clear()
        image_count = sum("\0" not in name and os.path.isfile(os.path.join(folder, name)) for name in names)  # noqa: PTH113, PTH118
        if image_count > best_count and relative_folder != ".":
            best_folder, best_count = relative_folder, image_count
    return best_folder


_FOLDERS, _DEPTH = 2000, 3  # most folders to search for images, most levels below the root


def _why_outside(path: str, description: str) -> str:
    real_path = path if "\0" in path else os.path.realpath(path)
    if real_path == os.path.normpath(path):
        return f"its file is outside of {description}"
    return f"a link leads to {real_path}, outside of {description}; a data.root above both holds it"


def _is_inside(path: str, folders: list[str], cache: dict[str, bool]) -> bool:
    """Return whether a file lies in one of the folders, which are real paths; `cache` caches the answers by folder."""
    folder, name = os.path.split(path)
    if "\0" in path or name in ("", ".", ".."):
        return False
    if os.path.islink(path):  # noqa: PTH114, a Path costs more than the call
        return any(_is_within(os.path.realpath(path), allowed_folder) for allowed_folder in folders)
    if folder not in cache:
        cache[folder] = any(_is_within(os.path.realpath(folder), allowed_folder) for allowed_folder in folders)
    return cache[folder]


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
