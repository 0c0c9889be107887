from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import Picture

from raydd.config import DataConfig
from raydd.data import load_data
from raydd.data.image_paths import confined
from raydd.data.listing import Listing
from raydd.data.pairs import Pairs
from raydd.data.readers.parquet_files import read
from raydd.errors import DataError
from raydd.store import Store

A, B, C, D = (Picture("train", name, ()).content for name in "abcd")


def write(root: Path, rows: list[dict[str, Any]], name: str = "train.parquet") -> Listing:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), root / name)
    return read(DataConfig(reader="parquet", root=str(root)))


def captions_by_id(pairs: Pairs) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {name: [] for name in pairs.ids}
    for text, image in zip(pairs.captions, pairs.image_of_caption, strict=True):
        captions[pairs.ids[image]].append(text)
    return captions


@pytest.mark.parametrize(
    "columns",
    [
        {"caption": ["one", "two"]},
        {"captions": ["one", "two"]},
        {"sentences": [{"raw": "one", "sentid": 1}, {"raw": "two", "sentid": 2}]},
        {"caption_0": "one", "caption_1": "two"},
    ],
)
def test_captions_are_found_by_their_usual_names(columns: dict[str, Any], tmp_path: Path) -> None:
    listing = write(tmp_path, [{"image": {"bytes": A, "path": "a.png"}, **columns}])
    assert listing.entries[0].captions == ("one", "two")


def test_numbered_columns_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    columns = {f"caption_{i}": str(i) for i in (10, 2, 0)}
    assert write(tmp_path, [{"image": A, **columns}]).entries[0].captions == ("0", "2", "10")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("data/validation-00000-of-00001.parquet", "val"),
        ("default/test/0000.parquet", "test"),
        ("pictures.parquet", "train"),
    ],
)
def test_the_split_is_in_the_name_of_the_file_or_folder(name: str, split: str, tmp_path: Path) -> None:
    assert write(tmp_path, [{"image": A, "text": "one"}], name).entries[0].split == split


def test_a_split_column_overrides_the_name(tmp_path: Path) -> None:
    rows = [{"image": image, "text": "x", "split": split} for image, split in [(A, "restval"), (B, "dev")]]
    assert [entry.split for entry in write(tmp_path, rows).entries] == ["train", "val"]


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.parquet names the split 'tests'. Did you mean 'test'"):
        write(tmp_path, [{"image": A, "text": "x", "split": "tests"}])


def test_rows_without_bytes_are_files_beside(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(A)
    listing = write(tmp_path, [{"image": {"bytes": None, "path": "a.png"}, "text": "one"}])
    assert listing.entries[0].image.read() == A
    assert write(tmp_path, [{"image": "a.png", "text": "one"}]).entries[0].image.read() == A


def test_a_path_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    listing = write(tmp_path, [{"image": "../../etc/passwd", "text": "one"}, {"image": None, "text": "two"}])
    _, outside = confined(listing.entries, DataConfig(reader="parquet", root=str(tmp_path)))
    assert [problem.kind for problem in (*outside, *listing.problems)] == ["image path outside", "missing image"]


def test_a_row_without_bytes_among_others_is_a_missing_image(tmp_path: Path, store: Store) -> None:
    rows = [{"image": image, "text": "x", "image_id": str(i)} for i, image in enumerate([A, None, B, C, D])]
    write(tmp_path, rows)
    data = load_data(DataConfig(reader="parquet", root=str(tmp_path)), store)
    assert [(problem.kind, problem.which) for problem in data.problems] == [("missing image", "1")]


def test_rows_of_one_id_are_joined_if_the_image_is_the_same(tmp_path: Path, store: Store) -> None:
    rows = [{"image": image, "text": text, "image_id": 5} for image, text in [(A, "one"), (A, "two"), (B, "three")]]
    write(tmp_path, rows + [{"image": image, "text": "x", "image_id": n} for n, image in enumerate([C, D])])
    data = load_data(DataConfig(reader="parquet", root=str(tmp_path)), store)
    captions = {key: texts for split in data.splits for key, texts in captions_by_id(split).items()}
    assert captions == {"5": ["one", "two"], "0": ["x"], "1": ["x"]}
    (problem,) = data.problems
    assert (problem.kind, problem.which) == ("duplicate id", "5")
    assert "is another image than" in problem.detail


def test_rows_without_ids_are_joined_by_their_bytes(tmp_path: Path, store: Store) -> None:
    images = [A, B, C, D]
    write(tmp_path, [{"image": image, "text": f"{n} {caption}"} for caption in "ab" for n, image in enumerate(images)])
    data = load_data(DataConfig(reader="parquet", root=str(tmp_path)), store)
    captions = [texts for split in data.splits for texts in captions_by_id(split).values()]
    assert sorted(captions) == [["0 a", "0 b"], ["1 a", "1 b"], ["2 a", "2 b"], ["3 a", "3 b"]]
    assert not data.problems


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"picture_data": A, "text": "x"},
            "has no image column .*; its columns are picture_data, text. Name it in data.image_column",
        ),
        (
            {"image": A, "label": 3},
            "has no caption column .*; its columns are image, label. Name it in data.caption_column",
        ),
    ],
)
def test_a_missing_column_is_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path, [row])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": 3, "text": "x"}, "image column 'image' holds int64, but must hold bytes, paths, or structs"),
        ({"image": A, "text": 7}, "caption column 'text' holds int64, but must hold a text or a list of texts"),
        (
            {"url": "x", "image": "https://a.org/b.jpg", "text": "x"},
            "is at https://a.org/b.jpg, and raydd downloads no",
        ),
    ],
)
def test_a_column_of_the_wrong_type_is_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path, [row])


def test_paths_have_columns_of_their_own_names_and_are_ids(tmp_path: Path) -> None:
    rows = [{"file_name": name, "ALT": text} for name, text in [("a.png", "one"), ("b.png", "two"), ("a.png", "three")]]
    assert [(entry.id, entry.captions) for entry in write(tmp_path, rows).entries] == [
        ("a.png", ("one", "three")),
        ("b.png", ("two",)),
    ]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, [{"image": A, "text": "x"}])
    path = tmp_path / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train.parquet cannot be read as Parquet"):
        read(DataConfig(reader="parquet", root=str(tmp_path)))


def test_a_name_chooses_a_folder(tmp_path: Path) -> None:
    write(tmp_path, [{"image": A, "text": "one"}], "first/train.parquet")
    write(tmp_path, [{"image": B, "text": "two"}], "second/train.parquet")
    listing = read(DataConfig(reader="parquet", root=str(tmp_path), name="second"))
    assert [entry.captions for entry in listing.entries] == [("two",)]
    assert listing.name == "second"


def test_a_table_may_be_a_folder_of_parts(tmp_path: Path) -> None:
    write(tmp_path, [{"image": A, "text": "one"}], "parts/train.parquet/part-0.parquet")
    listing = read(DataConfig(reader="parquet", root=str(tmp_path / "parts")))
    assert [(entry.split, entry.captions) for entry in listing.entries] == [("train", ("one",))]


def test_rows_with_bytes_and_rows_with_paths_may_share_a_group(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(A)
    images = [{"bytes": B, "path": "b.png"}, {"bytes": None, "path": "a.png"}]
    listing = write(tmp_path, [{"image": image, "text": "x"} for image in images])
    assert [entry.image.read() for entry in listing.entries] == [B, A]
    assert listing.problems == ()
