import json
from pathlib import Path

import pytest
from layouts import Picture, write_flat_json

from raydd.config import DataConfig
from raydd.data.image_paths import confined
from raydd.data.readers.flat_json import read
from raydd.errors import DataError

TWO = [Picture("train", "a", ("one", "two")), Picture("train", "b", ("three",))]


def test_rows_of_one_image_are_joined(tmp_path: Path) -> None:
    entries = read(write_flat_json(tmp_path, TWO)).entries
    assert [(entry.id, entry.captions) for entry in entries] == [
        ("train/a.png", ("one", "two")),
        ("train/b.png", ("three",)),
    ]


def test_the_only_data_set_of_a_folder_needs_no_name(tmp_path: Path) -> None:
    write_flat_json(tmp_path, TWO)
    assert read(DataConfig(reader="flat-json", root=str(tmp_path))).name == "tiny"


def test_several_data_sets_need_a_name(tmp_path: Path) -> None:
    write_flat_json(tmp_path, TWO)
    (tmp_path / "other_train.json").write_text("[]")
    with pytest.raises(DataError, match=r"holds 2 data sets. Set data.name. Known: other, tiny"):
        read(DataConfig(reader="flat-json", root=str(tmp_path)))


def test_a_wrong_name_is_answered_with_the_nearest_file(tmp_path: Path) -> None:
    write_flat_json(tmp_path, TWO)
    with pytest.raises(DataError, match=r"no file .*tny_train.json. Set data.name. Did you mean 'tiny_train.json'"):
        read(DataConfig(reader="flat-json", root=str(tmp_path), name="tny"))


def test_an_image_id_shared_by_two_images_is_a_fault(tmp_path: Path) -> None:
    config = write_flat_json(tmp_path, TWO)
    rows = [{"image": "a.png", "caption": "x", "image_id": 7}, {"image": "b.png", "caption": "y", "image_id": 7}]
    (tmp_path / "tiny_train.json").write_text(json.dumps(rows))
    (problem,) = read(config).problems
    assert (problem.kind, problem.which) == ("duplicate id", "b.png")
    assert "a.png" in problem.detail


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "train/../../a.png", ".", "a\0.png"])
def test_a_path_out_of_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    config = write_flat_json(tmp_path, TWO)
    (tmp_path / "tiny_val.json").write_text(json.dumps([{"image": path, "caption": "x"}]))
    entries, problems = confined(read(config).entries, config)
    assert [(problem.kind, problem.which) for problem in problems] == [("image path outside", path)]
    assert len(entries) == 2


def test_an_absolute_path_inside_the_folder_is_fine(tmp_path: Path) -> None:
    config = write_flat_json(tmp_path, TWO)
    rows = [{"image": str(tmp_path / "train" / "a.png"), "caption": "x"}]
    (tmp_path / "tiny_train.json").write_text(json.dumps(rows))
    assert read(config).entries[0].image.read() == TWO[0].content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", r"tiny_train.json is not valid JSON \(.*line 1.*Repair"),
        (
            '[{"image": "a", "caption": "x", "caption": "y"}]',
            r"the key 'caption' occurs twice in one object\)\. Repair",
        ),
        ("{}", "tiny_train.json holds a dict, but must hold a list"),
        ("[3]", "tiny_train.json, row 0 is a int, but must be an object with 'image'"),
        ('[{"image": "a"}]', "tiny_train.json, row 0 has no 'caption', only 'image'"),
        ('[{"image": 1, "caption": "x"}]', "row 0: 'image' is a int, but must be a str"),
        ('[{"image": "a", "caption": 5}]', "row 0: 'caption' is a int, but must be a str or list"),
    ],
)
def test_a_malformed_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    config = write_flat_json(tmp_path, TWO)
    (tmp_path / "tiny_train.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read(config)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    config = write_flat_json(tmp_path, TWO)
    (tmp_path / "tiny_train.json").write_bytes(b'[{"image": "\xff\xfe"}]')
    with pytest.raises(DataError, match=r"tiny_train.json is not UTF-8, but probably .*iconv -f"):
        read(config)


def test_a_missing_images_folder_is_named(tmp_path: Path) -> None:
    write_flat_json(tmp_path, TWO)
    with pytest.raises(DataError, match=r"no folder .*pictures for images. Set data.images"):
        read(DataConfig(reader="flat-json", root=str(tmp_path), name="tiny", images="pictures"))


@pytest.mark.shared_data
def test_flickr8k(shared_data: Path) -> None:
    listing = read(DataConfig(reader="flat-json", root=str(shared_data / "flickr8k"), name="flickr8k"))
    counts = {split: sum(entry.split == split for entry in listing.entries) for split in ("train", "val", "test")}
    assert counts == {"train": 3400, "val": 500, "test": 1000}
    assert {len(entry.captions) for entry in listing.entries} == {5}
    assert listing.problems == ()


def test_an_image_id_of_null_is_none(tmp_path: Path) -> None:
    config = write_flat_json(tmp_path, TWO)
    rows = [{"image": name, "caption": "x", "image_id": None} for name in ("a.png", "b.png")]
    (tmp_path / "tiny_train.json").write_text(json.dumps(rows))
    listing = read(config)
    assert {entry.id for entry in listing.entries} >= {"a.png", "b.png"}
    assert listing.problems == ()
