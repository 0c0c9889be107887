"""Class folders: sorted, named by classes.json or by the folder, and what is wrong said."""

import json
from pathlib import Path

import pytest

from raydd.data.class_folders import read_classes
from raydd.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder, count in {"n01": 2, "sea_lion": 1}.items():
        (tmp_path / "val" / folder).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "val" / folder / f"{number}.webp").write_bytes(b"image")
    return tmp_path / "val"


def test_folders_are_classes(root: Path) -> None:
    found = read_classes(root)
    assert found.labels == (0, 0, 1)
    assert found.names == ("n01", "sea lion")
    assert [image.name for image in found.images] == ["n01/0.webp", "n01/1.webp", "sea_lion/0.webp"]


def test_names_come_from_a_file_above_the_folder(root: Path) -> None:
    (root.parent / "classes.json").write_text(json.dumps({"n01": "tench", "sea_lion": "sea lion"}))
    assert read_classes(root).names == ("tench", "sea lion")
    (root.parent / "classes.json").write_text(json.dumps({"n01": "tench"}))
    with pytest.raises(DataError, match="no name for sea_lion"):
        read_classes(root)


def test_what_is_no_class_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read_classes(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds an image"):
        read_classes(tmp_path)
