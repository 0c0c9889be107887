"""The official COCO layout: `annotations/captions_train2017.json`, `captions_val2017.json`, `train2017/`, `val2017/`.

COCO publishes no captions of its test images, so its val becomes our test, and our val is cut from its train.
"""

from collections import defaultdict
from pathlib import Path

from raydd.config import DataConfig
from raydd.data.listing import Entry, Listing, Problem, Split
from raydd.data.readers.folders import as_captions, field, file_image, images_folder, only_name, read_json, root_folder
from raydd.errors import DataError


def read(config: DataConfig) -> Listing:
    """List the captions of a year. `data.name` names the year if there are several (2014, 2017).

    Raises:
        DataError: a file or a folder is missing, a file is malformed, or a row lacks a field.
    """
    root = root_folder(config)
    year = config.name or only_name(root, "annotations/captions_train*.json")
    train, problems = _read_file(root, config, f"train{year}", "train")
    notes: tuple[str, ...] = ()
    if (root / "annotations" / f"captions_val{year}.json").exists():
        test, test_problems = _read_file(root, config, f"val{year}", "test")
        train, problems = train + test, problems + test_problems
        notes = (f"test: the official val{year}, since COCO publishes no captions of its test images",)
    return Listing(f"coco{year}", tuple(train), tuple(problems), notes)


def _read_file(root: Path, config: DataConfig, part: str, split: Split) -> tuple[list[Entry], list[Problem]]:
    path = root / "annotations" / f"captions_{part}.json"
    content = read_json(path)
    captions: dict[str, list[str]] = defaultdict(list)
    for number, row in enumerate(field(content, "annotations", str(path), list)):
        location = f"{path}, annotation {number}"
        captions[str(field(row, "image_id", location, (int, str)))].extend(
            as_captions(field(row, "caption", location, (str, type(None))))
        )
    folder = images_folder(config, root) / part
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Set data.images to the folder that holds {part}.")
    entries: list[Entry] = []
    listed_ids = set()
    for number, row in enumerate(field(content, "images", str(path), list)):
        location = f"{path}, image {number}"
        image_id = str(field(row, "id", location, (int, str)))
        source = file_image(folder, field(row, "file_name", location, str))
        listed_ids.add(image_id)
        entries.append(Entry(split, image_id, source, tuple(captions.get(image_id, ()))))
    detail = f"{path.name} has captions of it, but does not list it"
    problems = [Problem("missing image", image_id, detail) for image_id in captions if image_id not in listed_ids]
    return entries, problems
