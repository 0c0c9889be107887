"""Data sets of every reader that are cut, changed, made up or hostile: read in part, or refused by name."""

import contextlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from attacking import attack, flags
from hypothesis import given
from hypothesis import strategies as st
from layouts import LAYOUTS, Picture, encode
from PIL import Image

from raydd.config import DataConfig
from raydd.data import DataSet, load_data
from raydd.data.layouts import find_layouts
from raydd.data.survey import survey
from raydd.errors import DataError, RayddError
from raydd.store import Store

PICTURES = [
    Picture(split, f"{split}{number}", (f"a {split} {number}", "more"))
    for split, count in (("train", 6), ("val", 2), ("test", 2))
    for number in range(count)
]
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)),
    max_leaves=6,
)


def read(config: DataConfig, folder: Path) -> DataSet | str:
    """The data set, or the sentence with which it was refused."""
    try:
        return load_data(config, Store(folder / "store", cache=folder / "cache"))
    except DataError as error:
        said = str(error)
        assert said
        return said


def written(layout: str, folder: Path) -> DataConfig:
    (folder / "data").mkdir()
    return LAYOUTS[layout](folder / "data", PICTURES)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
@hypothesis.settings(max_examples=8)
def test_bytes_changed_anywhere_are_read_in_part_or_refused(
    tmp_path_factory: pytest.TempPathFactory, layout: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp(layout)
    config = written(layout, folder)
    files = sorted(path for path in (folder / "data").rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    how = data.draw(st.sampled_from(["cut", "change", "empty", "append"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if how == "change":
        content[place] ^= data.draw(st.integers(1, 255))
    elif how == "append":
        content += data.draw(st.binary(min_size=1, max_size=20))
    else:
        del content[place if how == "cut" else 0 :]
    file.write_bytes(content)
    found = read(config, folder)
    if not isinstance(found, str):  # what is used is whole
        assert all(image.read() for split in found.splits for image in split.images)
    with contextlib.suppress(DataError):  # a sentence; anything else would not pass
        survey(find_layouts(DataConfig(root=str(folder / "data")))[0].data)


@given(rows=st.one_of(_json, st.lists(st.dictionaries(st.sampled_from(["image", "caption"]), _json), max_size=4)))
@hypothesis.settings(max_examples=40)
@hypothesis.example(rows=[{"image": "/etc/passwd", "caption": "x"}])
@hypothesis.example(rows=[{"image": "../" * 40 + "etc/passwd", "caption": "x"}])
@hypothesis.example(rows=[{"image": "a\x00b", "caption": "x"}, {"image": "", "caption": ["", None]}])
@hypothesis.example(rows=[{"image": "x" * 5000, "caption": "x"}, {"image": ".", "caption": "\ud800"}])
def test_annotations_of_any_shape_are_read_in_part_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: Any
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    config = written("flat-json", folder)
    (folder / "data" / "tiny_train.json").write_text(json.dumps(rows))
    assert isinstance(read(config, folder), str)  # there is no image of that name


def hostile(folder: Path, image: str) -> DataConfig:
    """A data set whose first training image is `image`."""
    config = written("flat-json", folder)
    file = folder / "data" / "tiny_train.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([{**rows[0], "image": image}, *rows[2:]]))
    return config


def test_a_pipe_a_device_and_links_that_leave_are_left_out_by_name(tmp_path: Path) -> None:
    config = hostile(tmp_path, "pipe.png")
    root = tmp_path / "data"
    (tmp_path / "private.png").write_bytes(PICTURES[0].content)
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "away.png").symlink_to(tmp_path / "private.png")
    (root / "up").symlink_to(tmp_path)
    rows = json.loads((root / "tiny_train.json").read_text())
    names = ("zero.png", "away.png", "up/private.png")
    (root / "tiny_train.json").write_text(json.dumps([*rows, *({"image": n, "caption": "x"} for n in names)]))
    found = read(config, tmp_path)
    assert isinstance(found, DataSet)
    left_out = {problem.which: problem.kind for problem in found.problems}
    assert left_out["pipe.png"] == "unreadable image"
    assert {left_out[name] for name in names} == {"image path outside"}


@pytest.mark.parametrize("layout", ["flat-json", "karpathy", "coco"])
@pytest.mark.parametrize("how", ["nested", "pipe", "device", "long number"])
def test_an_annotation_file_that_never_ends_is_refused_by_its_path(tmp_path: Path, layout: str, how: str) -> None:
    config = written(layout, tmp_path)
    file = min((tmp_path / "data").rglob("*train*.json"), default=tmp_path / "data" / "dataset_tiny.json")
    file.unlink()
    if how == "nested":
        file.write_text("[" * 100_000 + "]" * 100_000)
    elif how == "long number":
        file.write_text("1" * 10_000)
    elif how == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    found = read(config, tmp_path)
    assert isinstance(found, str)
    assert str(file) in found


def test_tar_members_that_claim_more_than_there_is_are_left_out(tmp_path: Path) -> None:
    config = written("webdataset", tmp_path)
    shard = next((tmp_path / "data").rglob("*train*.tar"))
    with tarfile.open(shard, "w") as tar:
        for name, content in (("a.png", PICTURES[0].content), ("a.txt", b"a"), ("b.json", b"[" * 100_000)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with shard.open("r+b") as file:  # its last member says that it has 50 GB, and the file is as long, with a hole
        file.seek(0, os.SEEK_END)
        start = file.tell() - file.tell() % 512
        for name in ("c.txt", "d.png"):
            claims = tarfile.TarInfo(name)
            claims.size = 50 * 2**30
            file.seek(start)
            file.write(claims.tobuf())
            start += 512 + claims.size
        file.truncate(start + 10_240)
    found = read(config, tmp_path)
    shard.unlink()
    assert isinstance(found, DataSet)
    assert len(found.train) == 1
    assert {problem.kind for problem in found.problems} >= {"missing image"}


def test_classes_and_photographs_are_files_of_their_folder_alone(tmp_path: Path) -> None:
    from raydd.data.class_folders import read_classes
    from raydd.export.searching import photographs

    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "0.png").write_bytes(encode(Image.new("RGB", (4, 4))))
    (tmp_path / "private.png").write_bytes(b"x")
    (tmp_path / "in" / "cat" / "away.png").symlink_to(tmp_path / "private.png")
    (tmp_path / "in" / "cat" / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "in" / "dog" / "pipe.png")
    assert [image.name for image in read_classes(tmp_path / "in").images] == ["cat/0.png", "dog/0.png"]
    assert len(photographs(tmp_path / "in")) == 2
    (tmp_path / "in" / "classes.json").write_text("[" * 100_000)
    with pytest.raises(RayddError, match=r"classes\.json does not map folders to names"):
        read_classes(tmp_path / "in")


@pytest.mark.parametrize("name", ["[/b]", "\x1b[2J\x1b]0;owned\x07", "a\nraydd: all is well", "[red]", "Bär \u202e"])
def test_names_of_markup_and_commands_are_text_to_the_end(tmp_path: Path, tiny_data: Path, name: str) -> None:
    rows = json.loads((tiny_data / "tiny_train.json").read_text())
    rows.append({"image": f"images/{name}.png", "caption": name})
    (tiny_data / "tiny_train.json").write_text(json.dumps(rows))
    home = tmp_path / f"home {name.splitlines()[0]}"
    said = attack("features", *flags(tiny_data, home))
    assert said.is_in_order()
    assert said.code == 0
    assert "missing image: 1 left out" in said.out
    shown = name.splitlines()[0].encode("unicode_escape").decode().replace("\\xe4", "ä")
    assert shown[:4] in said.out


def test_a_budget_above_the_images_is_refused_before_anything_is_encoded(tmp_path: Path, tiny_data: Path) -> None:
    for command in ("run", "distill"):
        said = attack(command, *flags(tiny_data, tmp_path / "home", distill_pairs=50, distill_minibatch=0))
        assert said.is_refusal_of("distill.pairs is 50, but train has 12 images")
    assert not list((tmp_path / "home").rglob("features"))


def test_captions_that_several_images_share_are_counted(tmp_path: Path, tiny_data: Path) -> None:
    rows = json.loads((tiny_data / "tiny_test.json").read_text())
    rows[1]["caption"] = rows[0]["caption"]
    (tiny_data / "tiny_test.json").write_text(json.dumps(rows))
    said = attack("features", *flags(tiny_data, tmp_path / "home"))
    assert "same captions: 4 of 8 in test are those of another image word for word" in " ".join(said.out.split())
    assert "in val" not in said.out
