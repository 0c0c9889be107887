import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import LAYOUTS, Picture

from raydd.config import DataConfig
from raydd.data import DataSet, Entry, Problem, load_data, open_data, open_image, pairs_record
from raydd.data.image_paths import ImagePaths
from raydd.data.images import FileImage
from raydd.data.pairs_record import Listed, open_pairs, require_known_sources, write_pairs
from raydd.data.readers import find_reader
from raydd.data.readers.parquet_files import ParquetImage
from raydd.data.readers.tar_shards import TarImage
from raydd.errors import DataError, RecordError
from raydd.store import Store

ODD = "half a pair \ud800, \udcff, 猫, a\nline"
CONFIG = DataConfig(root="/data", images="/pictures")
PICTURES = [
    Picture(split, f"{split}{number}", (f"{number} of {split}", "another"))
    for split, count in (("train", 5), ("val", 2), ("test", 2))
    for number in range(count)
]


def listed(count: int = 7) -> Listed:
    """Images of every kind, in odd places; image i has i + 1 captions."""
    sources = [
        FileImage("a.png", "/data/a.png"),
        FileImage("sub/b.png", "/data/sub/b.png"),
        FileImage("its name", "/elsewhere/c.png"),
        FileImage(ODD, f"/pictures/{ODD}"),
        ParquetImage("p:0", "/data/p.parquet", "image.bytes", 3, 1 << 40),
        TarImage("t/0", "/data/train/t.tar", 1 << 40, 12),
        TarImage("t/1", f"/data/{ODD}.tar", 512, 0),
    ]
    entries = [
        Entry("train", f"{number}{'' if number else ODD}", sources[number % 7], (ODD, *["more"] * number))
        for number in range(count)
    ]
    named = Entry("val", "a.png", sources[0], ("its id is its name",))
    problems = [Problem("grey image", ODD, "why", left_out=False), Problem("missing image", "x", "")]
    return Listed("made", {"train": entries, "val": [named], "test": []}, problems, ("a note",), "content")


@pytest.mark.parametrize("per_file", [2, 3, 100])
def test_what_is_written_opens_as_it_was(per_file: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_record, "PER_FILE", per_file)
    made, paths = listed(), ImagePaths.of(CONFIG)
    opened = open_pairs(store, write_pairs(store, made, paths), paths)
    assert (opened.name, opened.content, opened.notes) == ("made", "content", ("a note",))
    assert opened.problems == made.problems
    for split, entries in made.splits.items():
        found = opened.splits[split]
        assert found.images == [entry.image for entry in entries]
        assert found.ids == [entry.id for entry in entries]
        assert found.captions == [caption for entry in entries for caption in entry.captions]
        owners = [number for number, entry in enumerate(entries) for _ in entry.captions]
        assert found.image_of_caption.tolist() == owners
        assert found.image_of_caption.dtype == np.int64


def test_rows_are_a_sequence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_record, "PER_FILE", 3)
    made, paths = listed(), ImagePaths.of(CONFIG)
    ids = open_pairs(store, write_pairs(store, made, paths), paths).splits["train"].ids
    plain = [entry.id for entry in made.splits["train"]]
    assert len(ids) == 7
    assert [ids[0], ids[-1], ids[np.int64(4)]] == [plain[0], plain[-1], plain[4]]
    assert ids[2:5] == tuple(plain[2:5])
    assert ids[::-2] == tuple(plain[::-2])
    assert ids[9:] == ()
    assert list(ids) == plain
    assert "4" in ids
    for outside in (7, -8):
        with pytest.raises(IndexError, match="of 7"):
            ids[outside]
    assert ids != plain[:-1]
    assert ids != [*plain[:-1], "another"]


def test_one_listing_has_one_name_and_another_another(store: Store) -> None:
    made, paths = listed(), ImagePaths.of(CONFIG)
    name = write_pairs(store, made, paths)
    assert write_pairs(store, made, paths) == name
    moved = listed()
    moved.splits["train"][0] = replace(moved.splits["train"][0], image=FileImage("a.png", "/data/other/a.png"))
    others = [
        moved,
        replace(made, name="other"),
        replace(made, notes=()),
        replace(made, problems=made.problems[:1]),
        replace(made, content="other"),
    ]
    assert len({name, *(write_pairs(store, other, paths) for other in others)}) == 1 + len(others)
    there = replace(CONFIG, root="/mnt/data")
    elsewhere = [
        replace(entry, image=replace(entry.image, path=entry.image.path.replace("/data", "/mnt/data")))
        for entry in made.splits["train"]
    ]
    same = replace(made, splits={**made.splits, "train": elsewhere, "val": elsewhere[:0]})
    here = replace(made, splits={**made.splits, "val": []})
    assert write_pairs(store, same, ImagePaths.of(there)) == write_pairs(store, here, paths)


def test_a_killed_writer_leaves_nothing_that_opens(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made, paths = listed(), ImagePaths.of(CONFIG)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("raydd.store.Record.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            write_pairs(store, made, paths)
    (file,) = {name.split("/")[1] for name in store.names("pairs")}
    with pytest.raises(RecordError, match=r"has no data set .*. List it again"):
        open_pairs(store, file, paths)
    assert write_pairs(store, made, paths) == file
    assert open_pairs(store, file, paths).problems == made.problems


def test_a_changed_byte_is_found_when_a_row_is_read(store: Store) -> None:
    made, paths = listed(), ImagePaths.of(CONFIG)
    name = write_pairs(store, made, paths)
    assert store.folder
    path = store.folder / f"pairs/{name}/train/captions-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    opened = open_pairs(Store(store.root, cache=store.folder / "fresh"), name, paths)
    with pytest.raises(RecordError, match=r"captions-00000.safetensors is damaged"):
        opened.splits["train"].captions[0]


def test_rows_are_pickled_as_their_place(store: Store) -> None:
    made, paths = listed(7), ImagePaths.of(CONFIG)
    found = open_pairs(store, write_pairs(store, made, paths), paths).splits["train"]
    assert found.captions[0] == ODD  # mapped
    packed = pickle.dumps((found.captions, found.images))
    captions, images = pickle.loads(packed)
    assert captions == found.captions
    assert images == found.images
    grown = open_pairs(store, write_pairs(store, listed(700), paths), ImagePaths.of(CONFIG)).splits["train"]
    assert grown.captions[-1] == "more"
    assert len(pickle.dumps((grown.captions, grown.images))) < 10_000  # of 246,000 captions


def load(layout: str, root: Path, store: Store) -> tuple[DataConfig, DataSet]:
    root.mkdir()
    pictures = [picture for picture in PICTURES if layout != "coco" or picture.split != "val"]
    config = LAYOUTS[layout](root, pictures)
    return config, load_data(config, store)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_opens_elsewhere_without_its_reader(
    layout: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = load(layout, tmp_path / "here", store)
    entries: dict[str, list[Entry]] = {}
    for entry in find_reader(config.reader)(config).entries:
        entries.setdefault(entry.id, []).append(entry)
    assert {id for pairs in data.splits for id in pairs.ids} == set(entries)
    shutil.move(tmp_path / "here", tmp_path / "there")
    monkeypatch.setattr("raydd.data.pairs.find_reader", lambda name: pytest.fail(f"{name} was called"))
    moved = replace(config, root=str(tmp_path / "there"))
    opened = open_data(data.listing, moved, Store(store.root, cache=tmp_path / "another machine"))
    assert opened.fingerprint == data.fingerprint
    assert opened.summary() == data.summary()
    for pairs in opened.splits:
        assert len(pairs) > 0
        for number, (image, id) in enumerate(zip(pairs.images, pairs.ids, strict=True)):
            assert str(tmp_path / "there") in image.path
            assert image.name == entries[id][0].image.name
            assert open_image(image).size == (8, 8)
            captions = [pairs.captions[place] for place in np.flatnonzero(pairs.image_of_caption == number)]
            assert captions == [text for entry in entries[id] for text in entry.captions]


def test_the_bundled_data_lies_in_the_package(store: Store) -> None:
    data = load_data(DataConfig(), store)
    assert store.folder
    record = store.folder / "pairs" / data.listing
    assert b"stamps/stamps.parquet" in (record / "containers.safetensors").read_bytes()
    assert not any(str(Path.cwd()).encode() in path.read_bytes() for path in record.rglob("*.safetensors"))
    assert open_image(data.test.images[3]).size == (224, 224)


def test_a_source_of_ones_own_is_refused() -> None:
    class Mine(FileImage):
        pass

    with pytest.raises(DataError, match=r"reader mine:read returns 'x' as a Mine.* Return a FileImage, a Parquet"):
        require_known_sources([Entry("train", "x", Mine("x", "x"), ("x",))], "mine:read")
