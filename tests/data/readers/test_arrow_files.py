import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from layouts import SAVED_SCHEMA, Picture, write_saved

from raydd.config import DataConfig
from raydd.data import load_data
from raydd.data.image_paths import confined
from raydd.data.listing import Listing
from raydd.data.readers.arrow_files import read
from raydd.errors import DataError
from raydd.store import Store

A, B = Picture("train", "a", ()).content, Picture("train", "b", ()).content
FOUR = [Picture(split, f"{split}{number}", ("one", "two")) for split in ("train", "test") for number in range(4)]


def saved(root: Path, table: pa.Table, options: pa.ipc.IpcWriteOptions | None = None, **given: str) -> Listing:
    """One part that `save_to_disk` wrote, without splits."""
    with pa.ipc.new_stream(root / "data.arrow", table.schema, options=options) as stream:
        stream.write_table(table, max_chunksize=2)
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return read(DataConfig(reader="arrow", root=str(root), **given))


def test_what_datasets_saves_is_what_datasets_loads(tmp_path: Path, store: Store) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "alt": datasets.Value("string"), "n": datasets.Value("int64")}
    )
    rows = [{"img": {"bytes": picture.content}, "alt": picture.name, "n": 1} for picture in FOUR]
    whole = datasets.Dataset.from_list(rows, features=features)
    parts = datasets.DatasetDict({"train": whole.select(range(4)), "test": whole.select([7, 4, 6])})  # by indices
    parts.save_to_disk(tmp_path / "saved")
    config = DataConfig(reader="arrow", root=str(tmp_path / "saved"))
    found = [(entry.split, entry.image.read(), entry.captions) for entry in read(config).entries]
    again = datasets.load_from_disk(tmp_path / "saved")
    expected = [
        (split, row["img"]["bytes"], (row["alt"],))
        for split in ("train", "test")
        for row in again[split].cast_column("img", datasets.Image(decode=False))
    ]
    assert found == expected
    data = load_data(config, store)
    assert [len(pairs) for pairs in data.splits] == [3, 1, 3]


def test_bytes_paths_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(B)
    images = [{"bytes": A, "path": "a.png"}, {"bytes": None, "path": "b.png"}, None, {"bytes": None, "path": None}]
    table = pa.table({"image": pa.array(images, SAVED_SCHEMA.field("image").type), "caption": ["a", "b", "c", "d"]})
    found = saved(tmp_path, table)
    assert [entry.image.read() for entry in found.entries] == [A, B]
    assert [fault.kind for fault in found.problems] == ["missing image"] * 2


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_bytes_in_batches_with_nulls(kind: pa.DataType, tmp_path: Path) -> None:
    contents = [A, None, B, b"", A]
    found = saved(tmp_path, pa.table({"png": pa.array(contents, kind), "text": list("abcde")}))
    assert [entry.image.read() for entry in found.entries] == [A, B, b"", A]


@pytest.mark.parametrize(
    ("table", "given", "said"),
    [
        ({"image": [1], "text": ["x"]}, {}, "image column 'image' holds int64, but must hold bytes, paths, or structs"),
        ({"image": [A], "text": [7]}, {}, "caption column 'text' holds int64, but must hold a text or a list of texts"),
        ({"image": [A], "text": [[7]]}, {}, "caption column 'text' holds list<.*int64>, but must hold a text"),
        (
            {"photo": [A], "text": ["x"]},
            {},
            "has no image column .*; its columns are photo, text. Name it in data.image",
        ),
        (
            {"image": [A], "text": ["x"]},
            {"caption_column": "alt"},
            "has no column 'alt', which data.caption_column names",
        ),
    ],
)
def test_a_column_that_is_missing_or_of_the_wrong_type_is_named(
    table: dict[str, list], given: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        saved(tmp_path, pa.table(table), **given)


def saved_as(root: Path, split_name: str, **columns: list) -> Listing:
    """One split of two images, as `save_to_disk` writes it."""
    (root / split_name).mkdir()
    saved(root / split_name, pa.table({"image": [A, B], "text": ["a", "b"], **columns}))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": [split_name]}))
    return read(DataConfig(reader="arrow", root=str(root)))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Validation", "val"),
        ("validation_seen", "val"),
        ("test_1k", "test"),
        ("test.v2", "test"),
        ("dev_test", "val"),  # the first word counts, as in the names of files
        ("train2014", "train"),
        ("restval", "train"),
    ],
)
def test_the_split_is_in_the_name_of_the_saved_split(name: str, split: str, tmp_path: Path) -> None:
    assert {entry.split for entry in saved_as(tmp_path, name).entries} == {split}


@pytest.mark.parametrize("name", ["latest", "unseen", "full"])
def test_a_saved_split_of_an_unusual_name_is_refused_unless_its_rows_have_splits(name: str, tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    found = saved_as(tmp_path / "with", name, split=["val", "test"])
    assert [entry.split for entry in found.entries] == ["val", "test"]
    with pytest.raises(DataError, match=rf"belongs to the split '{name}', which is none of train, val and test. Load"):
        saved_as(tmp_path / "without", name)


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    table = pa.table({"image": [A * 20] * 4, "text": list("abcd")})
    with pytest.raises(DataError, match=r"data.arrow is compressed, so its images cannot be read. Save it again"):
        saved(tmp_path, table, pa.ipc.IpcWriteOptions(compression="zstd"))


@pytest.mark.parametrize("name", ["../private.arrow", "link.arrow", "pipe.arrow", "gone.arrow"])
def test_files_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_saved(tmp_path / "in", FOUR)
    (tmp_path / "private.arrow").write_bytes((tmp_path / "in/train/data-00000-of-00001.arrow").read_bytes())
    (tmp_path / "in/train/link.arrow").symlink_to(tmp_path / "private.arrow")
    os.mkfifo(tmp_path / "in/train/pipe.arrow")
    (tmp_path / "in/train/state.json").write_text(
        json.dumps({"_data_files": [{"filename": name.replace("..", "../..")}]})
    )
    with pytest.raises(DataError, match=r"state.json names .*, which is not a file of the data set. Save the"):
        read(DataConfig(reader="arrow", root=str(tmp_path / "in")))


def test_paths_that_leave_are_left_out(tmp_path: Path) -> None:
    found = saved(tmp_path, pa.table({"image": ["/etc/passwd", "../x.png"], "text": ["a", "b"]}))
    _, outside = confined(found.entries, DataConfig(reader="arrow", root=str(tmp_path)))
    assert [fault.kind for fault in outside] == ["image path outside"] * 2


def test_an_old_layout_with_indices_is_refused(tmp_path: Path) -> None:
    write_saved(tmp_path, FOUR)
    state = tmp_path / "train" / "state.json"
    state.write_text(
        json.dumps({**json.loads(state.read_text()), "_indices_data_files": [{"filename": "indices.arrow"}]})
    )
    with pytest.raises(DataError, match=r"was written by an old version of datasets. Load and save the data set again"):
        read(DataConfig(reader="arrow", root=str(tmp_path)))
