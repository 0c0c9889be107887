"""Reads the flat JSON of BLIP, LAVIS and LoRS: `<name>_train.json`, `<name>_val.json`, `<name>_test.json`.

Each file holds rows `{"image": path, "caption": text or [texts], "image_id": ...}`. Train has one row per caption, val
and test one row per image; rows of the same image are joined. `image_id` is optional; two images with the same
`image_id` are a fault. `data.image_column` and `data.caption_column` name other keys.
"""

from pathlib import Path

from raydd.config import DataConfig
from raydd.data.listing import SPLITS, Entry, Listing, Problem, Split
from raydd.data.readers.folders import as_captions, field, file_image, images_folder, only_name, read_json, root_folder
from raydd.errors import DataError


def read(config: DataConfig) -> Listing:
    """List the data set `data.name` of the folder `data.root`.

    Raises:
        DataError: a folder or the train file is missing, a file is malformed, or a row lacks a field.
    """
    root = root_folder(config)
    name = config.name or only_name(root, "*_train.json")
    folder = images_folder(config, root)
    entries: list[Entry] = []
    problems: list[Problem] = []
    for split in SPLITS:
        path = root / f"{name}_{split}.json"
        if split == "train" or path.exists():
            split_entries, faults = _read_split(path, split, folder, config)
            entries += split_entries
            problems += faults
    return Listing(name, tuple(entries), tuple(problems))


def _read_split(path: Path, split: Split, folder: Path, config: DataConfig) -> tuple[list[Entry], list[Problem]]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}, but must hold a list of rows. Check data.reader.")
    captions: dict[str, list[str]] = {}
    image_of_id: dict[str, str] = {}
    problems = []
    for number, row in enumerate(rows):
        location = f"{path}, row {number}"
        image = field(row, config.image_column or "image", location, str)
        texts = as_captions(field(row, config.caption_column or "caption", location, (str, list, type(None))))
        first_image = image_of_id.setdefault(str(row["image_id"]), image) if row.get("image_id") is not None else image
        if first_image == image:
            captions.setdefault(image, []).extend(texts)
        else:
            problems.append(Problem("duplicate id", image, f"image_id {row['image_id']} is {first_image}'s already"))
    entries = [Entry(split, image, file_image(folder, image), tuple(texts)) for image, texts in captions.items()]
    return entries, problems
