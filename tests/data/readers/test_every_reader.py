"""What every reader must do, whatever the layout."""

import hashlib
import pickle
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import IMG2DATASET, LAYOUTS, Picture, write_img2dataset

from raydd.config import DataConfig
from raydd.data import load_data
from raydd.data.images import ImageError, open_image
from raydd.data.joining import join_images
from raydd.data.readers import READERS, find_reader
from raydd.errors import ConfigError, DataError
from raydd.store import Store

IN_FOLDERS = sorted(set(READERS) - {"stamps", "hf:"})
captions = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).map(str.strip).filter(bool)


@st.composite
def pictures(draw: st.DrawFn) -> list[Picture]:
    counts = {"train": draw(st.integers(1, 5)), "val": draw(st.integers(1, 3)), "test": draw(st.integers(1, 3))}
    return [
        Picture(split, f"{split}{number}", tuple(draw(st.lists(captions, min_size=1, max_size=3))))
        for split, count in counts.items()
        for number in range(count)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@given(written=pictures())
@settings(max_examples=15)
def test_what_is_written_reads_back(layout: str, written: list[Picture]) -> None:
    if layout == "coco":  # which has no third split
        written = [picture for picture in written if picture.split != "val"]
    with tempfile.TemporaryDirectory() as folder:
        config = LAYOUTS[layout](Path(folder), written)
        listing = find_reader(config.reader)(config)
        contents = [entry.image.read() for entry in listing.entries]
        digests = np.array([np.frombuffer(hashlib.md5(content).digest(), np.int64) for content in contents])
        entries, _, problems = join_images(listing.entries, digests)
        read = [(entry.split, entry.image.read(), entry.captions) for entry in entries]
    assert sorted(read) == sorted((picture.split, picture.content, picture.captions) for picture in written)
    assert listing.problems == ()
    assert problems == []
    assert len({entry.id for entry in entries}) == len(written)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sources_survive_pickling(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout](tmp_path, [Picture("train", "a", ("one",)), Picture("test", "b", ("two",))])
    for entry in find_reader(config.reader)(config).entries:
        copy = pickle.loads(pickle.dumps(entry.image))
        assert copy.read() == entry.image.read()
        assert copy.stamp() == entry.image.stamp() != ""


@pytest.mark.parametrize("reader", IN_FOLDERS)
def test_a_wrong_root_is_named(reader: str, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(DataError, match=r"nowhere.*is not a folder.*Set it"):
        find_reader(reader)(DataConfig(reader=reader, root=str(missing), name="tiny"))
    with pytest.raises(DataError, match=r"data.root is empty"):
        find_reader(reader)(DataConfig(reader=reader, name="tiny"))


@pytest.mark.parametrize("reader", IN_FOLDERS)
def test_an_empty_folder_is_named(reader: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path.name}.* holds no .*Check data.root"):
        find_reader(reader)(DataConfig(reader=reader, root=str(tmp_path)))


@pytest.mark.parametrize("setting", ["image_column", "caption_column"])
def test_a_column_s_name_for_a_reader_without_columns_is_refused(setting: str, tmp_path: Path, store: Store) -> None:
    config = LAYOUTS["karpathy"](tmp_path, [Picture("train", "a", ("one",))])
    with pytest.raises(ConfigError, match=f"data.{setting} is 'x', but data.reader karpathy has no columns"):
        load_data(replace(config, **{setting: "x"}), store)


@pytest.mark.parametrize("layout", ["csv", "flat-json", "parquet", "arrow"])
def test_columns_have_the_names_that_the_settings_say(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout](tmp_path, [Picture("train", "a", ("one",))])
    same = find_reader(config.reader)(replace(config, image_column="image"))
    assert same == find_reader(config.reader)(config)
    for setting in ("image_column", "caption_column"):
        with pytest.raises(DataError, match=r"no (column )?'other'.*'?image'?"):
            find_reader(config.reader)(replace(config, **{setting: "other"}))


@pytest.mark.parametrize("kind", IMG2DATASET)
def test_what_img2dataset_writes(kind: str, tmp_path: Path, store: Store) -> None:
    written = [Picture(split, f"{split}{n}", (f'a "{n}", b',)) for split in ("train", "val", "test") for n in range(3)]
    (tmp_path / "data").mkdir()
    data = load_data(write_img2dataset(tmp_path / "data", written, kind), store)
    read = [
        (split, image.read(), caption)
        for split, pairs in zip(("train", "val", "test"), data.splits, strict=True)
        for image, caption in zip(pairs.images, pairs.captions, strict=True)
    ]
    assert read == [(picture.split, picture.content, *picture.captions) for picture in written]
    failed = ["missing image"] * 3 if kind == "parquet" else []  # the others have no trace of a failed download
    assert [problem.kind for problem in data.problems] == failed


def test_an_unknown_reader_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'karpathy'"):
        find_reader("karpaty")


OWN = """
from raydd.data import Entry, Listing
from raydd.data.images import FileImage

def read(config):
    return Listing('mine', (Entry('train', 'a', FileImage('a', config.root + '/a.png'), ('one',)),))
"""


@pytest.mark.parametrize("by", ["module", "file", "relative file"])
def test_a_function_of_any_module_or_file_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    (tmp_path / "my_pictures.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_pictures", raising=False)
    source = {"module": "my_pictures", "file": f"{tmp_path}/my_pictures.py", "relative file": "my_pictures.py"}[by]
    listing = find_reader(f"{source}:read")(DataConfig(reader=f"{source}:read", root="here"))
    assert listing.name == "mine"
    assert listing.entries[0].image.name == "a"
    monkeypatch.delitem(sys.modules, "my_pictures", raising=False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:read", "no_such_module cannot be imported: .*PYTHONPATH"),
        ("json:no_such_function", "json has no 'no_such_function'. Known: .*loads"),
        ("nowhere.py:read", "there is no file .*nowhere.py"),
        ("json:__name__", "is a str, but must be a function"),
        ("read.py:", "is incomplete. Name your own as module:NAME or FILE.py:NAME"),
        (":read", "is incomplete"),
    ],
)
def test_a_function_that_is_not_there_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"data.reader '?{name}'?:? {said}"):
        find_reader(name)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("return Listing", "return list", "gave a list|failed"),
        (
            "return Listing(",
            "return 1 / 0, (",
            "failed in .*own.py line 6: ZeroDivisionError: division by zero. Correct",
        ),
        ("('one',)", "'one'", r"entry 0 \(a\) has the captions 'one', but must have a tuple of texts"),
        ("'train'", "'training'", "entry 0 .* split 'training', but must have one of train, val, test"),
        ("Entry('train', 'a',", "tuple((1,)), (", "entry 0 is a tuple, but must be a raydd.data.listing.Entry"),
    ],
)
def test_a_faulty_reader_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    code = OWN.replace(old, new)
    assert code != OWN
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(ConfigError, match=f"data.reader {tmp_path}/own.py:read.*({said})"):
        find_reader(f"{tmp_path}/own.py:read")(DataConfig(root="here"))


def test_a_source_of_a_user_s_own_that_fails_is_an_unreadable_image() -> None:
    class Source:
        name = "mine"

        def read(self) -> bytes:
            raise ZeroDivisionError("zero")

        def stamp(self) -> str:
            return "mine"

    with pytest.raises(ImageError, match=r"unreadable image .ZeroDivisionError: zero"):
        open_image(Source())
