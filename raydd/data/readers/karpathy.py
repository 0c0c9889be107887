"""Reads Karpathy's splits: `dataset_flickr30k.json`, `dataset_coco.json`, `dataset_flickr8k.json`.

Each image is one object with `filename`, `filepath` (COCO's folder), `split` (train, restval, val, test) and
`sentences[].raw`.
"""

from pathlib import PurePosixPath

from raydd.config import DataConfig
from raydd.data.listing import Entry, Listing
from raydd.data.readers.folders import field, file_image, images_folder, only_name, read_json, root_folder, split_named


def read(config: DataConfig) -> Listing:
    """List the data set of `dataset_<data.name>.json`. restval is added to train, as in all published results.

    Raises:
        DataError: the file or a folder is missing, the file is malformed, or an image lacks a field.
    """
    root = root_folder(config)
    name = config.name or only_name(root, "dataset_*.json")
    path = root / f"dataset_{name}.json"
    folder = images_folder(config, root)
    entries: list[Entry] = []
    for number, row in enumerate(field(read_json(path), "images", str(path), list)):
        location = f"{path}, image {number}"
        filename = field(row, "filename", location, str)
        subfolder = field(row, "filepath", location, str) if "filepath" in row else ""
        image_path = str(PurePosixPath(subfolder) / filename)
        split = split_named(field(row, "split", location, str), location)
        sentences = field(row, "sentences", location, list)
        captions = tuple(field(sentence, "raw", location, str) for sentence in sentences)
        entries.append(Entry(split, image_path, file_image(folder, image_path), captions))
    return Listing(name, tuple(entries))
