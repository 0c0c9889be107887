"""The first look of `raydd init`; tests/commands/test_init.py has what it says."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import LAYOUTS, Picture, encode
from PIL import Image

from raydd.config import DataConfig
from raydd.data import load_data
from raydd.data import survey as room
from raydd.data.listing import SPLITS
from raydd.data.survey import survey
from raydd.store import Store

PICTURES = [
    Picture(split, f"{split}{number}", ("one", "two"))
    for split, count in (("train", 4), ("val", 2), ("test", 2))
    for number in range(count)
]


@pytest.mark.parametrize("layout", ["webdataset", "arrow", "txt"])
def test_copies_are_found_without_opening_all(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "OPENED", 1)
    monkeypatch.setattr(
        Picture, "content", property(lambda self: ONE if self.name in ("train1", "val0") else CONTENTS[self])
    )
    found = survey(LAYOUTS[layout](tmp_path, PICTURES))
    assert found.opened == 1
    assert found.splits == {"train": (3, 6), "val": (2, 4), "test": (2, 4)}
    (fault,) = found.problems
    assert (fault.kind, fault.left_out) == ("duplicate image", True)
    assert fault.detail.startswith("train has the same image as ")
    assert fault.detail.endswith(" of val")


FAULTY = [*PICTURES, *(Picture("train", f"train{n}", ("Three!", "!!!")) for n in range(4, 9))]
CHANGED = {
    "train5": b"no image",
    "train6": encode(Image.new("L", (8, 8), 90)),
    "test1": encode(Image.new("L", (8, 8), 30)),
}
COPIES = {"train1": "val0", "train2": "test1", "val1": "test0", "train4": "train0"}


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"coco"}))  # of which a run cuts a val split
@pytest.mark.parametrize(
    "settings",
    [{}, {"duplicates": "keep"}, {"grey_images": "skip"}, {"caption_words": 1, "duplicates": "keep"}],
    ids=str,
)
def test_the_first_look_and_a_run_see_the_same(
    layout: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {picture.name: picture.content for picture in FAULTY}
    contents |= CHANGED
    contents |= {copy: contents[name] for copy, name in COPIES.items()}
    monkeypatch.setattr(Picture, "content", property(lambda self: contents[self.name]))
    (tmp_path / "data").mkdir()
    config = replace(LAYOUTS[layout](tmp_path / "data", FAULTY), **settings)
    found, loaded = survey(config), load_data(config, Store(tmp_path / "store"))
    splits = zip(SPLITS, loaded.splits, strict=True)
    assert found.splits == {split: (len(pairs), len(pairs.captions)) for split, pairs in splits}
    assert {"duplicate image", "grey image", "unreadable image"} <= {fault.kind for fault in found.problems}
    assert found.problems == loaded.problems


@pytest.mark.parametrize("most", [0, 3, 100])
def test_ids_that_start_again_in_each_split_are_other_images(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "OPENED", 1)
    monkeypatch.setattr(room, "_HASHED", most)
    for split in ("train", "val", "test"):
        rows = [
            {"image": Picture(split, f"{n}", ()).content, "caption": caption, "image_id": n}
            for n in range(4)
            for caption in ("one", "two")
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    config = DataConfig(reader="parquet", root=str(tmp_path))
    assert survey(config).splits == {"train": (4, 8), "val": (4, 8), "test": (4, 8)}


CONTENTS = {picture: picture.content for picture in PICTURES}
ONE = PICTURES[0].content + b"\0"


def test_images_in_a_folder_of_their_own_are_found(tmp_path: Path) -> None:
    config = LAYOUTS["csv"](tmp_path, PICTURES)
    (tmp_path / "deep" / "photos").mkdir(parents=True)
    for split in ("train", "val", "test"):
        shutil.move(tmp_path / split, tmp_path / "deep" / "photos" / split)
    found = survey(config)
    assert found.data.images == "deep/photos"
    assert found.problems == []
    assert found.splits["train"] == (4, 8)
