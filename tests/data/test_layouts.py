"""What `raydd init` looks for; tests/commands/test_init.py has each layout end to end."""

import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import LAYOUTS, Picture, add_member, encode
from PIL import Image

from raydd.config import DataConfig
from raydd.data.layouts import find_layouts
from raydd.errors import DataError

PICTURES = [Picture("train", f"{number}", ("one",)) for number in range(3)]


def found(root: Path, **given: str) -> list[tuple[str, str]]:
    return [(layout.data.reader, layout.data.name) for layout in find_layouts(DataConfig(root=str(root), **given))]


def test_several_data_sets_of_a_layout_are_all_named(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}_train.json").write_text("[]")
        (tmp_path / f"dataset_{name}.json").write_text("{}")
    both = [(reader, name) for reader in ("karpathy", "flat-json") for name in ("a", "b")]
    assert found(tmp_path) == both
    assert found(tmp_path, name="b") == [pair for pair in both if pair[1] == "b"]


@pytest.mark.parametrize("name", ["dataset_info.json", "dataset_infos.json", "dataset_dict.json"])
def test_files_of_hugging_face_are_not_karpathy_s(name: str, tmp_path: Path) -> None:
    LAYOUTS["parquet"](tmp_path, PICTURES)
    (tmp_path / name).write_text("{}")
    assert ("karpathy", name) not in found(tmp_path)
    assert found(tmp_path)[-1] == ("parquet", "")


def test_a_table_among_others_is_found_by_its_columns(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,label\n1,cat\n")
    (tmp_path / "captions.csv").write_text("image;caption\na.png;x\n")
    (tmp_path / "README.txt").write_text("All about it.\n")
    (layout,) = find_layouts(DataConfig(root=str(tmp_path)))
    assert (layout.data.reader, layout.data.name) == ("csv", "captions")
    assert layout.why == "captions.csv has the columns image and caption, separated by ';'"
    (tmp_path / "captions.csv").rename(tmp_path / "captions.txt")
    assert found(tmp_path) == [("csv", "captions.txt")]


def test_metadata_beside_images_is_no_layout_of_its_own(tmp_path: Path) -> None:
    LAYOUTS["txt"](tmp_path, PICTURES)
    pq.write_table(pa.table({"key": ["0"], "caption": ["one"], "url": ["http://a.org/0.png"]}), tmp_path / "0.parquet")
    (tmp_path / "all.tar").write_bytes(b"no tar")
    assert found(tmp_path) == [("txt", "")]


@pytest.mark.parametrize(("member", "layouts"), [("a.bmp", [("webdataset", "")]), ("a.notpng", []), ("png", [])])
def test_shards_are_known_by_the_endings_of_their_members(
    member: str, layouts: list[tuple[str, str]], tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_member(tar, member, b"")
    if layouts:
        assert found(tmp_path) == layouts
    else:
        with pytest.raises(DataError, match="no layout that raydd knows"):
            find_layouts(DataConfig(root=str(tmp_path)))


def test_pipes_and_links_hold_nothing_up(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    LAYOUTS["txt"](tmp_path / "in", PICTURES)
    for name in ("a.tar", "b.parquet", "c.csv", "state.json", "d_train.json"):
        os.mkfifo(tmp_path / "in" / name)
    (tmp_path / "in" / "e.txt").symlink_to("/dev/zero")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert ("txt", "") in found(tmp_path / "in")


def test_coco_s_images_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    LAYOUTS["coco"](tmp_path, [Picture("train", "a", ("one",)), Picture("test", "b", ("two",))])
    (tmp_path / "images").mkdir()
    for part in ("train2017", "val2017"):
        (tmp_path / part).rename(tmp_path / "images" / part)
    (layout,) = find_layouts(DataConfig(root=str(tmp_path)))
    assert (layout.data.reader, layout.data.name, layout.data.images) == ("coco", "2017", "images")


def test_nearly_a_layout_is_told_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (4, 4))))
    with pytest.raises(DataError, match="holds images, but no captions"):
        find_layouts(DataConfig(root=str(tmp_path)))
    (tmp_path / "words.csv").write_bytes("image,caption\na.png,café\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"words.csv is not UTF-8, but probably WINDOWS-1252"):
        find_layouts(DataConfig(root=str(tmp_path)))
    (tmp_path / "words.csv").write_text(json.dumps({}))
    with pytest.raises(DataError, match="has no image column"):
        find_layouts(DataConfig(root=str(tmp_path)))
