"""What every reader must do, whatever the layout."""

import pickle
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, Picture

from raydd.config import DataConfig
from raydd.data.readers import READERS, find_reader
from raydd.errors import DataError

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
@settings(max_examples=15, deadline=None)
def test_what_is_written_reads_back(layout: str, written: list[Picture]) -> None:
    if layout == "coco":  # which has no third split
        written = [picture for picture in written if picture.split != "val"]
    with tempfile.TemporaryDirectory() as folder:
        config = LAYOUTS[layout](Path(folder), written)
        listing = find_reader(config.reader)(config)
        read = [(entry.split, entry.image.read(), entry.captions) for entry in listing.entries]
    assert sorted(read) == sorted((picture.split, picture.content, picture.captions) for picture in written)
    assert listing.problems == ()
    assert len({entry.id for entry in listing.entries}) == len(written)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sources_survive_pickling(layout: str, tmp_path: Path) -> None:
    config = LAYOUTS[layout](tmp_path, [Picture("train", "a", ("one",)), Picture("test", "b", ("two",))])
    for entry in find_reader(config.reader)(config).entries:
        copy = pickle.loads(pickle.dumps(entry.image))
        assert copy.read() == entry.image.read()
        assert copy.stamp() == entry.image.stamp() != ""


@pytest.mark.parametrize("reader", sorted(set(READERS) - {"stamps"}))
def test_a_wrong_root_is_named(reader: str, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(DataError, match=r"nowhere.*is not a folder.*Set it"):
        find_reader(reader)(DataConfig(reader=reader, root=str(missing), name="tiny"))
    with pytest.raises(DataError, match=r"data.root is empty"):
        find_reader(reader)(DataConfig(reader=reader, name="tiny"))


@pytest.mark.parametrize("reader", sorted(set(READERS) - {"stamps"}))
def test_an_empty_folder_is_named(reader: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path.name}.* holds no .*Check data.root"):
        find_reader(reader)(DataConfig(reader=reader, root=str(tmp_path)))


def test_an_unknown_reader_is_answered_with_the_nearest() -> None:
    with pytest.raises(DataError, match="Did you mean 'karpathy'"):
        find_reader("karpaty")


def test_a_function_of_any_module_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_pictures.py").write_text(
        "from raydd.data import Entry, Listing\n"
        "from raydd.data.images import FileImage\n"
        "def read(config):\n"
        "    return Listing('mine', (Entry('train', 'a', FileImage('a', config.root + '/a.png'), ('one',)),))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    listing = find_reader("my_pictures:read")(DataConfig(reader="my_pictures:read", root="here"))
    assert listing.name == "mine"
    assert listing.entries[0].image.name == "a"
    del sys.modules["my_pictures"]


@pytest.mark.parametrize("name", ["no_such_module:read", "json:no_such_function"])
def test_a_function_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(DataError, match=f"data.reader {name}: .*PYTHONPATH"):
        find_reader(name)
