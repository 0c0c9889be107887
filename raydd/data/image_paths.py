"""Where a data set's files lie: image paths are kept inside its folders, and stored relative to them.

So a path that an annotation file or a reader gives cannot lead to a file that is none of the data set's, and another
machine that has the data elsewhere finds the images by its own `data.root`.
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

# What a stored path is relative to; its place here is what is stored. The bundled data set lies in the package.
BASES = ("nothing", "data.images", "data.root", "the package")


@dataclass(frozen=True)
class ImagePaths:
    """The folders of a data set on this machine."""

    folders: dict[str, str]
    """By their name in `BASES`, absolute."""
    _known: dict[str, tuple[int, str]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, config: DataConfig) -> "ImagePaths":
        """The folders that the settings name."""
        folders = {}
        root = expanded(config.root, "data.root").absolute()
        if config.images:
            folders["data.images"] = os.path.normpath(root / expanded(config.images, "data.images"))
        if config.root:
            folders["data.root"] = os.path.normpath(root)
        return cls({**folders, "the package": str(Path(__file__).parent)})

    def relative(self, path: str) -> tuple[int, str]:
        """The place in `BASES` of what a path is relative to, and the rest of the path."""
        folder, name = os.path.split(path)
        if folder not in self._known:  # few folders hold many images
            self._known[folder] = self._relative_folder(folder)
        base, rest = self._known[folder]
        return base, f"{rest}/{name}" if rest else name

    def absolute(self, base: int, path: str) -> str:
        """The path on this machine of what `relative` gave, on whatever machine.

        Raises:
            DataError: the setting that the path is relative to is empty here.
        """
        name = BASES[base]
        if not base:
            return path
        if name not in self.folders:
            raise DataError(f"The data set was listed with {name}, which is empty here. Set it to where the data lies.")
        return f"{self.folders[name]}/{path}"

    def _relative_folder(self, folder: str) -> tuple[int, str]:
        full = os.path.abspath(folder)  # noqa: PTH100, a Path would keep '..'
        for name, base in self.folders.items():
            for found, inside in ((full, base), (os.path.realpath(full), os.path.realpath(base))):
                if _within(found, inside):
                    return BASES.index(name), os.path.relpath(found, inside).removeprefix(".").lstrip("/")
        return 0, full


def confined(entries: Iterable[Entry], config: DataConfig) -> tuple[tuple[Entry, ...], tuple[Problem, ...]]:
    """Leave out images in files of their own that lie outside `data.root` and `data.images`, links followed.

    With an empty `data.root` all stay.

    Args:
        entries: as a reader gave them.
        config: with the folders.
    """
    if not config.root:
        return tuple(entries), ()
    folders = ImagePaths.of(config).folders
    inside = [folders[name] for name in ("data.images", "data.root") if name in folders]
    return confined_to(entries, inside, "data.root and data.images")


def confined_to(
    entries: Iterable[Entry], folders: Iterable[str], called: str
) -> tuple[tuple[Entry, ...], tuple[Problem, ...]]:
    """Leave out images in files of their own that lie outside some folders, links followed.

    Args:
        entries: as a reader gave them.
        folders: which may be links themselves.
        called: the folders in words.
    """
    inside = [os.path.realpath(folder) for folder in folders]
    good: list[Entry] = []
    problems: list[Problem] = []
    known: dict[str, bool] = {}
    for entry in entries:
        if isinstance(entry.image, FileImage) and not _is_inside(entry.image.path, inside, known):
            detail = f"its file is outside of {called}"
            problems.append(Problem("image path outside", entry.image.name, detail))
        else:
            good.append(entry)
    return tuple(good), tuple(problems)


def find_images(root: Path, names: Sequence[str]) -> str:
    """The folder below `root` that holds most of some images; "" if none does.

    Args:
        root: the data set's folder.
        names: the images' paths as the data set gives them.
    """
    best, most = "", 0
    for folder, inside, _ in islice(os.walk(root), _FOLDERS):
        here = os.path.relpath(folder, root)
        inside.sort()
        if here.count(os.sep) >= _DEPTH:
            inside.clear()
        found = sum("\0" not in name and os.path.isfile(os.path.join(folder, name)) for name in names)  # noqa: PTH113, PTH118
        if found > most and here != ".":
            best, most = here, found
    return best


_FOLDERS, _DEPTH = 2000, 3  # to look in for images


def _is_inside(path: str, folders: list[str], known: dict[str, bool]) -> bool:
    """Whether a file lies in one of the folders, which are real; `known` says it of folders that were asked before."""
    folder, name = os.path.split(path)
    if "\0" in path or name in ("", ".", ".."):
        return False
    if os.path.islink(path):  # noqa: PTH114, a Path costs more than the call
        return any(_within(os.path.realpath(path), each) for each in folders)
    if folder not in known:
        known[folder] = any(_within(os.path.realpath(folder), each) for each in folders)
    return known[folder]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
