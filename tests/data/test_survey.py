"""The first look of `raydd init`; tests/commands/test_init.py has what it says."""

import shutil
from pathlib import Path

import pytest
from layouts import LAYOUTS, Picture

from raydd.data import survey as room
from raydd.data.survey import survey

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
    assert found.splits == {"train": (4, 8), "val": (2, 4), "test": (2, 4)}
    (fault,) = found.problems
    assert (fault.kind, fault.left_out) == ("duplicate image", True)
    assert fault.detail.startswith("train has the same image as ")
    assert fault.detail.endswith(" of val")


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
