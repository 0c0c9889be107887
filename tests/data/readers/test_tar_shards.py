import json
import tarfile
from pathlib import Path

import pytest
from layouts import Picture, add_member, encode
from PIL import Image

from raydd.config import DataConfig
from raydd.data import load_data, open_image
from raydd.data.images import SUFFIXES
from raydd.data.listing import Listing
from raydd.data.readers.tar_shards import read
from raydd.store import Store

A, B = Picture("train", "a", ()).content, Picture("train", "b", ()).content
SOME = [Picture("train", f"some {number}", ()).content for number in range(4)]


def write(root: Path, members: dict[str, bytes], name: str = "00000.tar") -> Listing:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / name, "w") as tar:
        for member, content in members.items():
            add_member(tar, member, content)
    return read(DataConfig(reader="webdataset", root=str(root)))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("cc3m-train-0001.tar", "train"),
        ("cc3m-validation-0001.tar", "val"),
        ("test/00000.tar", "test"),
        ("00000.tar", "train"),
    ],
)
def test_the_split_is_in_the_name_of_the_shard_or_folder(name: str, split: str, tmp_path: Path) -> None:
    assert write(tmp_path, {"a.png": A, "a.txt": b"one"}, name).entries[0].split == split


@pytest.mark.parametrize("ending", SUFFIXES)
def test_images_of_every_format_are_found(ending: str, tmp_path: Path) -> None:
    content = encode(Image.new("RGB", (8, 8), "red"), Image.registered_extensions()[ending])
    (entry,) = write(tmp_path, {f"a{ending.upper()}": content, "a.txt": b"one"}).entries
    assert open_image(entry.image).size == (8, 8)


def test_a_text_file_goes_before_json_whatever_their_order(tmp_path: Path) -> None:
    facts = json.dumps({"caption": "of json", "url": "…"}).encode()
    for members in ({"a.json": facts, "a.txt": b" of text\n"}, {"a.txt": b" of text\n", "a.json": facts}):
        assert write(tmp_path, members | {"a.JPG": A}).entries[0].captions == ("of text",)
    assert write(tmp_path, {"a.png": A, "a.json": facts}).entries[0].captions == ("of json",)


def test_a_key_ends_at_the_first_dot_of_the_file_name(tmp_path: Path) -> None:
    listing = write(tmp_path, {"v1.2/a.png": A, "v1.2/a.txt": b"one", "v1.2/a.cls.txt": b"7"})
    assert [(entry.id, entry.captions) for entry in listing.entries] == [("00000/v1.2/a", ("one",))]


def test_one_key_may_stand_in_two_shards(tmp_path: Path) -> None:
    write(tmp_path, {"0.png": A, "0.txt": b"one"}, "train/00000.tar")
    listing = write(tmp_path, {"0.png": B, "0.txt": b"two"}, "val/00000.tar")
    assert [entry.id for entry in listing.entries] == ["train/00000/0", "val/00000/0"]


def test_faults_are_named(tmp_path: Path, store: Store) -> None:
    good = {f"{i}.png": SOME[i] for i in range(4)} | {f"{i}.txt": b"fine" for i in range(4)}
    bad = {"text.txt": b"alone", "bare.png": A, "odd.png": B, "odd.json": b"[1", "empty.png": A, "empty.txt": b""}
    write(tmp_path, good | bad)
    data = load_data(DataConfig(reader="webdataset", root=str(tmp_path)), store)
    assert sorted((problem.kind, problem.which) for problem in data.problems) == [
        ("empty caption", "00000/bare"),
        ("empty caption", "00000/empty"),
        ("empty caption", "00000/odd"),
        ("missing image", "00000/text"),
    ]


def test_one_key_twice_in_a_shard_is_a_fault(tmp_path: Path, store: Store) -> None:
    good = {f"{i}.png": SOME[i] for i in range(4)} | {f"{i}.txt": b"fine" for i in range(4)}
    write(tmp_path, good | {"0.jpg": B})
    data = load_data(DataConfig(reader="webdataset", root=str(tmp_path)), store)
    assert [(problem.kind, problem.which) for problem in data.problems] == [("duplicate id", "00000/0")]


@pytest.mark.parametrize("cut", [1, 600, 2000])
def test_what_stands_before_a_cut_is_used(cut: int, tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": b"one", "a.png": A, "b.txt": b"two", "b.png": b"x" * 1500})
    path = tmp_path / "00000.tar"
    with tarfile.open(path) as tar:
        end = tar.getmember("b.png").offset_data + 1500
    path.write_bytes(path.read_bytes()[: end - cut])
    listing = read(DataConfig(reader="webdataset", root=str(tmp_path)))
    assert listing.entries[0].captions == ("one",)
    assert "damaged shard" in {problem.kind for problem in listing.problems}


def test_a_shard_that_is_no_tar_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(b"no tar at all" * 100)
    assert [problem.kind for problem in read(DataConfig(reader="webdataset", root=str(tmp_path))).problems] == [
        "damaged shard"
    ]
