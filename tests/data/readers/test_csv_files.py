import csv
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layouts import Picture

from raydd.config import DataConfig
from raydd.data.image_paths import confined
from raydd.data.listing import Listing
from raydd.data.readers.csv_files import data_set_of, read
from raydd.errors import DataError

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), min_size=1, max_size=20)


def listing(root: Path, content: str | bytes, file: str = "captions.csv", **given: str) -> Listing:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(content.encode() if isinstance(content, str) else content)
    return read(DataConfig(reader="csv", root=str(root), **given))


def pairs(found: Listing) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(entry.split, entry.id, entry.captions) for entry in found.entries]


@given(
    captions=st.lists(texts.map(str.strip).filter(bool), min_size=1, max_size=6),
    separator=st.sampled_from([",", "\t", ";", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
@example(
    captions=['say "hi", she said; a|b\tc', "a\nb", "\u2028\x85".strip() or "x"],
    separator=",",
    quoting=csv.QUOTE_MINIMAL,
    line_end="\r\n",
    mark="\ufeff",
)
@settings(max_examples=60)
def test_quotes_separators_line_ends_and_the_mark_of_utf_8(
    captions: list[str], separator: str, quoting: int, line_end: str, mark: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(mark)
            writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=line_end)
            writer.writerows([["caption", "n", "image"], *([text, "1", "a.png"] for text in captions)])
        found = read(DataConfig(reader="csv", root=folder))
    assert pairs(found) == [("train", "a.png", tuple(captions))]
    assert found.problems == ()


def test_the_tables_that_kaggle_has(tmp_path: Path) -> None:
    flickr8k = 'image,caption\n1.jpg,A child .\n1.jpg,"A girl, in pink ."\n'
    flickr30k = "image_name| comment_number| comment\n1.jpg| 0| Two men .\n1.jpg| 1   A dog\n2.jpg| 0| Workers ."
    assert pairs(listing(tmp_path / "8", flickr8k, "captions.txt", name="captions.txt")) == [
        ("train", "1.jpg", ("A child .", "A girl, in pink ."))
    ]
    found = listing(tmp_path / "30", flickr30k, "results.csv")
    assert pairs(found) == [("train", "1.jpg", ("Two men .",)), ("train", "2.jpg", ("Workers .",))]
    (fault,) = found.problems
    assert (fault.kind, fault.which) == ("malformed row", "results.csv line 3")
    assert "2 columns, but the first line names 3: quote a text that holds '|'" in fault.detail


def test_a_table_a_split_and_one_in_each_folder(tmp_path: Path) -> None:
    for place in ("flat/tiny_{}.csv", "bare/{}.csv", "deep/{}/metadata.csv"):
        for split in ("train", "validation", "test"):
            path = tmp_path / place.format(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"file_name,text\n0.png,{split}\n")
    for folder in ("flat", "bare", "deep"):
        found = read(DataConfig(reader="csv", root=str(tmp_path / folder)))
        assert sorted((entry.split, entry.captions) for entry in found.entries) == [
            ("test", ("test",)),
            ("train", ("train",)),
            ("val", ("validation",)),
        ]
    assert {entry.id for entry in found.entries} == {"train/0.png", "validation/0.png", "test/0.png"}
    assert {entry.image.path for entry in found.entries} == {
        str(tmp_path / "deep" / entry.id) for entry in found.entries
    }


def test_hidden_tables_are_none(tmp_path: Path) -> None:
    for name in ("._captions.csv", ".ipynb_checkpoints/captions.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00\x05\x16\x07")
    with pytest.raises(DataError, match="holds no"):
        read(DataConfig(reader="csv", root=str(tmp_path)))
    assert len(listing(tmp_path, "image,caption\na.png,x\n").entries) == 1


def test_several_tables_need_a_name(tmp_path: Path) -> None:
    listing(tmp_path, "image,caption\na.png,of one\n", "one.csv")
    with pytest.raises(DataError, match=r"holds 2 tables, and data.name must say which to read. Known: one, two"):
        listing(tmp_path, "image,caption\nb.png,of two\n", "two.csv")
    assert pairs(read(DataConfig(reader="csv", root=str(tmp_path), name="two"))) == [("train", "b.png", ("of two",))]
    with pytest.raises(DataError, match="Did you mean 'two'"):
        read(DataConfig(reader="csv", root=str(tmp_path), name="twoo"))


@pytest.mark.parametrize("names", [("flickrTrain", "flickrTest"), ("contest", "conval"), ("latest", "la")])
def test_tables_are_joined_only_if_their_names_have_splits(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / f"{name}.csv").write_text(f"image,caption\n{name}.png,{name}\n")
    with pytest.raises(DataError, match=f"holds 2 tables, .* Known: {', '.join(sorted(names))}"):
        read(DataConfig(reader="csv", root=str(tmp_path)))
    for name in names:
        found = read(DataConfig(reader="csv", root=str(tmp_path), name=name))
        assert pairs(found) == [("train", f"{name}.png", (name,))]


@pytest.mark.parametrize(
    ("stem", "data_set", "split"),
    [
        ("flickr_train", "flickr", "train"),
        ("flickr-Test", "flickr", "test"),
        ("flickr.val", "flickr", "val"),
        ("coco2017test", "coco2017", "test"),
        ("test", "", "test"),
        ("latest", "latest", "train"),
        ("contest", "contest", "train"),
        ("flickrTest", "flickrTest", "train"),
    ],
)
def test_the_name_and_the_split_of_a_table_agree(stem: str, data_set: str, split: str, tmp_path: Path) -> None:
    assert data_set_of(tmp_path / f"{stem}.csv") == data_set
    assert pairs(listing(tmp_path, "image,caption\na.png,x\n", f"{stem}.csv")) == [(split, "a.png", ("x",))]


def test_columns_by_the_settings(tmp_path: Path) -> None:
    content = "photo;image;words;caption\na.png;x;mine;y\n"
    found = listing(tmp_path, content, image_column="photo", caption_column="words")
    assert pairs(found) == [("train", "a.png", ("mine",))]


@pytest.mark.parametrize(
    ("content", "given", "said"),
    [
        (
            "photo,words\na,b\n",
            {},
            r"captions.csv.* has no image column .*; its columns are photo, words. Name it in data.image",
        ),
        ("image,words\na,b\n", {}, r"has no caption column .* are image, words. Name it in data.caption_column"),
        ("a.jpg\ttwo dogs\n", {}, "whose first line has to name the columns, has no image column .* a.jpg, two dogs"),
        ("", {}, "has no image column .* its columns are none"),
        (
            "image,caption\n",
            {"image_column": "img"},
            "has no column 'img', which data.image_column names; its columns are image, caption",
        ),
        (
            'image,caption\na.png,"never closed\n',
            {},
            r"row from line 2 on, is malformed \(a quotation mark is not closed\)",
        ),
        ('image,caption\na.png,x\nb.png,"Big" dog\n', {}, r"row from line 3 on, is malformed .* write the mark twice"),
        ("image,caption\na.png," + "x" * 10_000_000, {}, r"row from line 2 on, is malformed \(field larger than"),
        ("image,caption\nhttps://a.org/b.jpg,x\n", {}, "is at https://a.org/b.jpg, and raydd downloads no images"),
        ("image,caption,split\na.png,x,trian\n", {}, "line 2 names the split 'trian'. Did you mean 'train'"),
    ],
)
def test_a_fault_of_the_table_is_named(content: str, given: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        listing(tmp_path, content, **given)


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("cp1252", "WINDOWS-1252"), ("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("latin-1", "ISO-8859-1")],
)
def test_another_encoding_is_named_with_a_command_that_converts_it(encoding: str, named: str, tmp_path: Path) -> None:
    text = (
        "image,caption\na.png,fine\nb.png,café\x81\n"
        if encoding == "latin-1"
        else "image,caption\na.png,x\nb.png,café\n"
    )
    with pytest.raises(DataError, match=f"captions.csv is not UTF-8, but probably {named}") as refused:
        listing(tmp_path, text.encode(encoding))
    if encoding in ("cp1252", "latin-1"):
        assert "byte 0xe9 in line 3" in str(refused.value)
    command = str(refused.value).split("`")[1]
    assert os.system(command) == 0
    converted = (tmp_path / "captions.utf8.csv").read_text("utf-8")
    (tmp_path / "captions.utf8.csv").unlink()
    assert pairs(listing(tmp_path, converted))[-1][2] == (text.splitlines()[-1].partition(",")[2].strip(),)


def test_rows_without_image_or_caption_are_faults_of_their_own(tmp_path: Path) -> None:
    found = listing(tmp_path, "image,caption\n,lost\na.png,\nb.png,x,y\n\nc.png,z\n")
    assert [(fault.kind, fault.which) for fault in found.problems] == [
        ("missing image", "captions.csv line 2"),
        ("malformed row", "captions.csv line 4"),
    ]
    assert [entry.captions for entry in found.entries] == [("",), ("z",)]


def test_pipes_devices_and_links_that_leave_are_refused(tmp_path: Path) -> None:
    config = DataConfig(reader="csv", root=str(tmp_path / "in"))
    (tmp_path / "in").mkdir()
    (tmp_path / "private.csv").write_text("image,caption\na.png,secret\n")
    table = tmp_path / "in" / "captions.csv"
    os.mkfifo(table)
    with pytest.raises(DataError, match=r"captions.csv cannot be read \(it is a pipe"):
        read(config)
    for target in ("/dev/zero", tmp_path / "private.csv"):
        table.unlink()
        table.symlink_to(target)
        with pytest.raises(DataError, match=r"captions.csv links to something outside the data set"):
            read(config)


def test_a_path_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "up.png").write_bytes(Picture("train", "a", ()).content)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "away.png").symlink_to(tmp_path / "up.png")
    found = listing(tmp_path / "in", f"image,caption\n../up.png,x\n{tmp_path}/up.png,x\naway.png,x\n")
    kept, outside = confined(found.entries, DataConfig(reader="csv", root=str(tmp_path / "in")))
    assert kept == ()
    assert {fault.kind for fault in outside} == {"image path outside"}
    assert len(outside) == 3


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two columns 'caption'"):
        listing(tmp_path, "image,caption,caption\na.png,one,two\n")
    assert pairs(listing(tmp_path, "image,caption,note,note\na.png,one,x,y\n")) == [("train", "a.png", ("one",))]


def test_an_empty_id_is_none(tmp_path: Path) -> None:
    content = "image,image_id,caption\na.png,,one\nb.png,,two\nc.png,7,three\n"
    assert [name for _, name, _ in pairs(listing(tmp_path, content))] == ["a.png", "b.png", "7"]


def test_a_table_may_be_a_folder_of_parts(tmp_path: Path) -> None:
    assert len(listing(tmp_path, "image,caption\na.png,one\n", "captions.csv/part-0.csv").entries) == 1
