"""`raydd init`: the layout of a folder is found, and what it writes reads the same pairs."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from attacking import Said, attack
from layouts import IMG2DATASET, LAYOUTS, Picture, encode, write_img2dataset
from PIL import Image

import raydd
from raydd.config import DataConfig
from raydd.data import load_data
from raydd.store import Store

PICTURES = [
    Picture(split, f"{split}{number}", (f"a {split} {number}", f'"more", of {number}'))
    for split, count in (("train", 5), ("val", 2), ("test", 2))
    for number in range(count)
]
COLUMNS = {"tsv": ("--data.image-column", "photo", "--data.caption-column", "words")}


def init(folder: Path, *given: str) -> Said:
    return attack("init", str(folder), "--out", str(folder.parent / "raydd.yaml"), *given)


def made(tmp_path: Path, layout: str) -> DataConfig:
    (tmp_path / "data").mkdir()
    return LAYOUTS[layout](tmp_path / "data", PICTURES)


@pytest.mark.parametrize("layout", [*LAYOUTS, *(f"img2dataset {kind}" for kind in IMG2DATASET)])
def test_what_init_writes_reads_the_same_pairs(layout: str, tmp_path: Path, store: Store) -> None:
    if layout in LAYOUTS:
        config = made(tmp_path, layout)
    else:
        (tmp_path / "data").mkdir()
        config = write_img2dataset(tmp_path / "data", PICTURES, layout.partition(" ")[2])
    said = init(tmp_path / "data", *COLUMNS.get(layout, ()))
    assert said.code == 0, said
    work = raydd.open(raydd.load(tmp_path / "raydd.yaml"), store)
    expected = load_data(config, Store(tmp_path / "other"))
    assert work.data.fingerprint == expected.fingerprint
    assert [len(pairs) for pairs in work.data.splits] == [len(pairs) for pairs in expected.splits]
    assert f": {config.reader}" in said.out
    assert "also fits" not in said.out
    assert f"raydd doctor --config {tmp_path / 'raydd.yaml'}" in said.out


def test_pairs_and_faults_are_counted(tmp_path: Path) -> None:
    made(tmp_path, "flat-json")
    root = tmp_path / "data"
    (root / "train" / "train0.png").unlink()
    (root / "train" / "train1.png").write_bytes(b"no image")
    shutil.copy(root / "test" / "test0.png", root / "train" / "train2.png")
    rows = json.loads((root / "tiny_val.json").read_text())
    (root / "tiny_val.json").write_text(json.dumps([{**rows[0], "caption": ["x", " "]}, rows[1]]))
    said = init(root)
    assert said.code == 0
    table = [line.split() for line in said.out.splitlines()]
    assert ["train", "2", "4"] in table
    assert ["val", "2", "3"] in table
    assert ["test", "2", "4"] in table
    for fault in (
        "missing image: 1 left out: train/train0.png (there is no such file)",
        "unreadable image: 1 left out: train/train1.png (none of JPEG",
        "duplicate image: 1 left out: train/train2.png (train has the same image as test/test0.png of test)",
        "empty caption: 1 left out: val/val0.png (1 of 2 captions)",
        "distill.pairs is 99, more than the number of train images",
    ):
        assert fault in said.out


def test_of_many_images_some_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "txt")
    monkeypatch.setattr("raydd.data.survey.OPENED", 3)
    assert "3 of 9 images were opened; `raydd doctor` opens all" in init(tmp_path / "data").out


def test_a_file_is_replaced_only_if_asked_for(tmp_path: Path) -> None:
    made(tmp_path, "csv")
    (tmp_path / "raydd.yaml").write_text("mine")
    assert init(tmp_path / "data").is_refusal_of("raydd.yaml already exists. Give another --out, or --overwrite")
    assert (tmp_path / "raydd.yaml").read_text() == "mine"
    assert init(tmp_path / "data", "--overwrite").code == 0
    assert yaml.safe_load((tmp_path / "raydd.yaml").read_text())["data"]["reader"] == "csv"


def test_of_several_layouts_the_most_specific_is_taken_and_all_are_named(tmp_path: Path) -> None:
    made(tmp_path, "karpathy")
    assert "images: in pictures" in init(tmp_path / "data").out
    LAYOUTS["csv"](tmp_path / "data", PICTURES)
    (tmp_path / "raydd.yaml").unlink()
    said = init(tmp_path / "data")
    assert said.out.startswith(f"{tmp_path / 'data'}: karpathy (tiny), since dataset_tiny.json is there\n")
    assert "also fits: csv" in said.out
    said = init(tmp_path / "data", "--overwrite", "--data.reader", "csv")
    assert ": csv, since data.reader names it" in said.out


def test_settings_that_are_given_are_written(tmp_path: Path) -> None:
    made(tmp_path, "csv")
    assert init(tmp_path / "data", "--distill.pairs", "4", "--distill.rank", "2", "--data.val-share", "0.2").code == 0
    config = raydd.load(tmp_path / "raydd.yaml")
    assert (config.distill.pairs, config.distill.rank, config.data.val_share) == (4, 2, 0.2)


def test_a_folder_of_no_layout_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert init(tmp_path / "data").is_refusal_of("no dataset_NAME.json", "*.parquet", "See docs/data.md")
    (tmp_path / "data" / "a.png").write_bytes(encode(Image.new("RGB", (4, 4))))
    assert init(tmp_path / "data").is_refusal_of("holds images, but no captions that raydd finds", "docs/data.md")
    (tmp_path / "data" / "words.csv").write_text("photo,words\na.png,x\n")
    assert init(tmp_path / "data").is_refusal_of("its columns are photo, words. Name it in data.image_column")
    assert init(tmp_path / "nowhere").is_refusal_of("nowhere is not a folder")
    assert not (tmp_path / "raydd.yaml").exists()


@pytest.mark.parametrize("name", ["a\nb: c", "[red]", "Bär \u202e", "x: {y}", "'\"", "#", "\x85"])
def test_a_folder_of_any_name_is_read_back(name: str, tmp_path: Path, store: Store) -> None:
    (tmp_path / name).mkdir()
    LAYOUTS["csv"](tmp_path / name, PICTURES)
    said = init(tmp_path / name)
    assert said.is_in_order()
    assert said.code == 0, said
    assert len(raydd.open(raydd.load(tmp_path / "raydd.yaml"), store).data.train) == 5


def test_a_name_that_settings_take_for_a_variable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "$HOME").mkdir()
    LAYOUTS["csv"](tmp_path / "$HOME", PICTURES)
    assert init(tmp_path / "$HOME").is_refusal_of("contains a $, which settings read as a variable. Rename the folder")
