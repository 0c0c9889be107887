"""Makes the part of Flickr8k that the documentation's scores are from, out of the data set's own files.

python docs/comparison/flickr8k_part.py TEXTS IMAGES FOLDER

TEXTS holds `Flickr8k.token.txt`, `Flickr_8k.trainImages.txt` and `Flickr_8k.devImages.txt` (Flickr8k_text.zip), IMAGES
the photographs (Flickr8k_Dataset.zip). FOLDER gets three JSON files and `images/`, for the reader `flat-json`.
Which lines of the training list belong to train and val is in `flickr8k_part.csv`; test is the whole dev list.
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageOps
from rich.progress import track

SIDE = 224
QUALITY = 70


def names_by_split(texts: Path) -> dict[str, list[str]]:
    """Return the names of each split's photographs, without their endings and sorted."""
    listed, dev = (
        [Path(line).stem for line in (texts / f"Flickr_8k.{name}Images.txt").read_text("utf8").split()]
        for name in ("train", "dev")
    )
    names: dict[str, list[str]] = {"train": [], "val": [], "test": dev}
    with Path(__file__).with_suffix(".csv").open(encoding="utf8", newline="") as file:
        for row in csv.DictReader(file):
            names[row["split"]].append(listed[int(row["line"]) - 1])
    return {split: sorted(chosen) for split, chosen in names.items()}


def captions_by_name(texts: Path) -> dict[str, list[str]]:
    """Return the captions of each photograph, in the order of `Flickr8k.token.txt`."""
    captions = defaultdict(list)
    for line in (texts / "Flickr8k.token.txt").read_text("utf8").splitlines():
        place, caption = line.split("\t", 1)  # NAME.jpg#NUMBER, then the caption
        captions[place.split(".")[0]].append(caption)
    return captions


def main(texts: Path, images: Path, folder: Path) -> None:
    """Write the three files, and the photographs as squares."""
    names, captions = names_by_split(texts), captions_by_name(texts)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split, chosen in names.items():
        rows = [{"image": f"images/{name}.webp", "caption": captions[name], "image_id": name} for name in chosen]
        if split == "train":  # a row for each caption
            rows = [{**row, "caption": caption} for row in rows for caption in row["caption"]]
        (folder / f"flickr8k_{split}.json").write_text(json.dumps(rows, indent=0, ensure_ascii=False), "utf8")
        for name in track(chosen, description=split):
            with Image.open(images / f"{name}.jpg") as photograph:
                square = ImageOps.fit(photograph.convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC)
            square.save(folder / "images" / f"{name}.webp", quality=QUALITY)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
