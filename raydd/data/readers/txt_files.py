"""Reads a folder of images with a `.txt` next to each, `dog.jpg` and `dog.txt`, at any depth, as by img2dataset.

Each line of a text is a caption. The split comes from a folder's name; the default is train.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from raydd.config import DataConfig
from raydd.data.images import SUFFIXES
from raydd.data.listing import Entry, Listing, Problem, Split
from raydd.data.readers.folders import decoded, file_image, named_folder, root_folder, split_of_path
from raydd.errors import DataError
from raydd.plain_files import is_plain, read_file

_MOST_TEXT = 2**20  # most bytes of the captions of an image


def read(config: DataConfig) -> Listing:
    """List every image below `data.root`, or below its subfolder `data.name` if that exists, with its text.

    Raises:
        DataError: no image has a text of the same name.
    """
    root = root_folder(config)
    data_folder = named_folder(root, config.name)
    entries: list[Entry] = []
    problems: list[Problem] = []
    for folder, images, texts in walk(data_folder):
        split = _folder_split(folder, data_folder)
        for stem, names in images.items():
            captions = _read_captions(folder / f"{stem}.txt", data_folder) if stem in texts else ()
            for name in names:
                path = (folder / name).relative_to(data_folder).as_posix()
                if isinstance(captions, str):
                    problems.append(Problem("unreadable caption", path, captions))
                else:
                    entries.append(Entry(split, path, file_image(data_folder, path), captions))
        lone_texts = (folder.relative_to(data_folder) / f"{stem}.txt" for stem in sorted(texts - set(images)))
        problems += [Problem("missing image", str(path), "no image has this text's name") for path in lone_texts]
    if not any(entry.captions for entry in entries) and not any(
        problem.kind == "unreadable caption" for problem in problems
    ):
        raise DataError(
            f"{data_folder} holds no image with a caption next to it (NAME.jpg and NAME.txt); images: {len(entries)}. "
            "Check data.root, or choose another data.reader."
        )
    return Listing(config.name or root.resolve().name, tuple(entries), tuple(problems))


def walk(root: Path) -> Iterator[tuple[Path, dict[str, list[str]], set[str]]]:
    """Yield each folder, its images by name without ending, and the names of its texts without ending.

    The order is sorted. Links are not followed."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        images: dict[str, list[str]] = defaultdict(list)
        texts = set()
        for name in sorted(name for name in files if not name.startswith(".")):  # macOS leaves ._NAME.jpg in archives
            stem, ending = os.path.splitext(name)  # noqa: PTH122 - a Path costs more than the call
            if ending.lower() in SUFFIXES:
                images[stem].append(name)
            elif ending == ".txt":
                texts.add(stem)
        yield Path(folder), images, texts


def _folder_split(folder: Path, root: Path) -> Split:
    return "train" if folder == root else split_of_path(folder, root) or "train"


def _read_captions(path: Path, root: Path) -> tuple[str, ...] | str:
    """Return the captions of a text file, or the reason why they cannot be read."""
    if path.is_symlink() and not is_plain(path, root):
        return "its text is a link to what is no file of the data set"
    try:
        text = decoded(read_file(path, _MOST_TEXT), path)
    except OSError as error:
        return error.strerror or str(error)
    except DataError as error:
        return str(error).rstrip(".")
    return tuple(line.strip() for line in re.split(r"[\r\n]+", text) if line.strip())
