"""The script that makes the documentation's part of Flickr8k, on a data set of the same layout."""

import json
import runpy
from pathlib import Path

import pytest
from PIL import Image

from raydd.config import DataConfig
from raydd.data.readers import READERS

SCRIPT = Path(__file__).parents[2] / "docs/comparison/flickr8k_part.py"


@pytest.fixture
def release(tmp_path: Path) -> tuple[Path, Path]:
    """Text files like those of Flickr8k, and 7,000 names of one photograph."""
    texts, images = tmp_path / "texts", tmp_path / "photographs"
    texts.mkdir()
    images.mkdir()
    names = [f"{number}_{number:04x}" for number in range(7000)]
    for name, chosen in (("train", names[1000:]), ("dev", names[:1000])):
        (texts / f"Flickr_8k.{name}Images.txt").write_text("".join(f"{one}.jpg\n" for one in chosen))
    captions = [f"{one}.jpg#{number}\ttext {number} of {one}\n" for one in names for number in range(5)]
    (texts / "Flickr8k.token.txt").write_text("".join(captions))
    Image.new("RGB", (12, 8), "red").save(images / "photograph.jpg")
    for one in names:
        (images / f"{one}.jpg").hardlink_to(images / "photograph.jpg")
    return texts, images


def test_the_part_has_the_documented_splits_and_captions(
    release: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, script = tmp_path / "part", runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(script["main"].__globals__, "SIDE", 4)  # a hundredth of the time
    script["main"](*release, folder)

    listing = READERS["flat-json"](DataConfig(root=str(folder), name="flickr8k"))
    images = {split: {row.id for row in listing.entries if row.split == split} for split in ("train", "val", "test")}
    assert {split: len(ids) for split, ids in images.items()} == {"train": 3400, "val": 500, "test": 1000}
    assert not images["train"] & images["val"]
    rows = json.loads((folder / "flickr8k_test.json").read_text())
    assert rows[0]["caption"] == [f"text {number} of 0_0000" for number in range(5)]
    with Image.open(folder / rows[0]["image"]) as photograph:
        assert photograph.size == (4, 4)
