import json
import shutil
from pathlib import Path

import pytest
from layouts import Picture, write_coco

from raydd.config import DataConfig
from raydd.data import load_data
from raydd.data.readers.coco import read
from raydd.errors import DataError
from raydd.store import Store

PICTURES = [Picture("train", f"a{i}", ("one", "two")) for i in range(10)] + [Picture("test", "b", ("three",))]


def test_official_val_is_test_and_val_is_cut_from_train(tmp_path: Path, store: Store) -> None:
    data = load_data(write_coco(tmp_path, PICTURES), store)
    assert [len(pairs) for pairs in data.splits] == [9, 1, 1]
    assert data.test.captions == ("three",)
    assert any("test: the official val2017" in note for note in data.notes)
    assert any("val: 1 images cut from train by seed 0" in note for note in data.notes)


def test_captions_of_an_image_that_is_not_listed_are_a_fault(tmp_path: Path) -> None:
    config = write_coco(tmp_path, PICTURES)
    path = tmp_path / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"].append({"image_id": 77, "caption": "of nothing"})
    path.write_text(json.dumps(content))
    assert [(problem.kind, problem.which) for problem in read(config).problems] == [("missing image", "77")]


def test_two_years_need_a_name(tmp_path: Path) -> None:
    config = write_coco(tmp_path, PICTURES)
    shutil.copy(
        tmp_path / "annotations" / "captions_train2017.json", tmp_path / "annotations" / "captions_train2014.json"
    )
    with pytest.raises(DataError, match=r"holds 2 data sets. Set data.name. Known: 2014, 2017"):
        read(config)
    assert read(DataConfig(reader="coco", root=str(tmp_path), name="2017")).name == "coco2017"


def test_a_missing_folder_of_images_is_named(tmp_path: Path) -> None:
    config = write_coco(tmp_path, PICTURES)
    shutil.rmtree(tmp_path / "train2017")
    with pytest.raises(DataError, match=r"no folder .*train2017. Set data.images"):
        read(config)


@pytest.mark.parametrize("missing", ["images", "annotations"])
def test_a_missing_table_is_named(missing: str, tmp_path: Path) -> None:
    config = write_coco(tmp_path, PICTURES)
    path = tmp_path / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    del content[missing]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"captions_train2017.json has no '{missing}'"):
        read(config)


@pytest.mark.shared_data
def test_coco_mini(shared_data: Path, store: Store) -> None:
    data = load_data(DataConfig(reader="coco", root=str(shared_data / "coco_mini")), store)
    assert [len(pairs) for pairs in data.splits] == [72, 8, 79]
    assert {problem.kind for problem in data.problems} <= {"grey image"}
