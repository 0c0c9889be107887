import io
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import Picture
from PIL import Image, ImageOps

from raydd.config import DataConfig
from raydd.data import DataSet, load_data, open_data, open_image, readers
from raydd.data.checking import judge
from raydd.data.images import FileImage
from raydd.errors import DataError
from raydd.store import Store


def config_of(root: Path) -> DataConfig:
    return DataConfig(reader="flat-json", root=str(root), name="tiny")


def change(root: Path, split: str, **fields: object) -> None:
    """Change fields of the first row of a split."""
    path = root / f"tiny_{split}.json"
    rows = json.loads(path.read_text())
    rows[0] |= fields
    path.write_text(json.dumps(rows))


def faults(data: DataSet) -> list[tuple[str, str, bool]]:
    return [(problem.kind, problem.which, problem.left_out) for problem in data.problems]


def test_captions_belong_to_their_images(tiny_data: Path, store: Store) -> None:
    data = load_data(config_of(tiny_data), store)
    assert data.name == "tiny"
    assert [len(pairs) for pairs in data.splits] == [12, 4, 4]
    assert data.train.captions[4:6] == ("picture 2 of train", "some noise, number 2")
    assert data.train.ids[2] == "images/train2.png"
    assert data.train.image_of_caption.tolist() == [image for image in range(12) for _ in range(2)]
    assert data.train.image_of_caption.dtype == np.int64
    assert open_image(data.test.images[0]).size == (32, 32)
    assert data.problems == data.notes == ()
    assert data.summary() == ("tiny: 12 train, 4 val, 4 test images, 40 captions",)


def test_captions_are_cleaned_before_they_are_judged(tiny_data: Path, store: Store) -> None:
    change(tiny_data, "train", caption=["Two DOGS (one black): running!", "!!!"])
    plain = load_data(config_of(tiny_data), store)
    cleaned = load_data(replace(config_of(tiny_data), caption_words=4), store)
    assert plain.train.captions[0] == "Two DOGS (one black): running!"
    assert cleaned.train.captions[0] == "two dogs one black"
    assert len(cleaned.train.captions) == len(plain.train.captions) - 1
    assert cleaned.fingerprint != plain.fingerprint


def test_a_second_load_reads_no_image(tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny_data / "images/train0.png").write_bytes(b"not an image")
    seen = []
    first = load_data(config_of(tiny_data), store, lambda work, done, total: seen.append((work, done, total)))
    assert seen[-1] == ("checking images", 20, 20)
    monkeypatch.setattr(FileImage, "read", lambda source: pytest.fail(f"{source.name} was read"))
    second = load_data(config_of(tiny_data), store)
    assert second.problems == first.problems
    assert second.fingerprint == first.fingerprint


def test_an_interrupted_check_goes_on(tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydd.data.checking.SHARD", 8)
    opened = []

    def stop(work: str, done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_data(config_of(tiny_data), store, stop)
    monkeypatch.setattr("raydd.data.checking.judge", lambda image: (opened.append(image.name), judge(image))[1])
    load_data(config_of(tiny_data), store)
    assert len(opened) == 12  # all but the first eight


@pytest.mark.parametrize("cut", [0.3, 0.7])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_cut_image_is_left_out(ending: str, cut: float, tiny_data: Path, store: Store) -> None:
    path = tiny_data / f"images/odd.{ending}"
    Image.open(tiny_data / "images/train0.png").save(path)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    change(tiny_data, "train", image=f"images/odd.{ending}")
    data = load_data(config_of(tiny_data), store)
    ((kind, which, left_out),) = faults(data)
    assert kind in {"truncated image", "unreadable image"}
    assert (which, left_out) == (f"images/odd.{ending}", True)
    assert len(data.train) == 11
    assert data.train.ids[0] == "images/train1.png"
    assert data.train.captions[0] == "picture 1 of train"


def test_every_fault_is_named_and_counted(tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny_data / "images/train0.png").unlink()
    (tiny_data / "images/train1.png").write_bytes(b"not an image")
    Image.new("RGB", (65, 65)).save(tiny_data / "images/train2.png")
    Image.new("L", (32, 32), 100).save(tiny_data / "images/train3.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    change(tiny_data, "val", image="../../etc/passwd")
    change(tiny_data, "test", caption=["fine", " ", "\u200b\u2060", None])
    path = tiny_data / "tiny_train.json"
    rows = json.loads(path.read_text())
    rows[4]["caption"] = []
    rows.append({"image": "images/test1.png", "caption": "an image of test"})
    path.write_text(json.dumps(rows))
    with pytest.warns(Image.DecompressionBombWarning):
        data = load_data(config_of(tiny_data), store)
    assert sorted(faults(data)) == [
        ("duplicate id", "images/test1.png", True),
        ("empty caption", "images/test0.png", True),
        ("empty caption", "images/train4.png", True),
        ("grey image", "images/train3.png", False),
        ("image path outside", "../../etc/passwd", True),
        ("missing image", "images/train0.png", True),
        ("oversized image", "images/train2.png", True),
        ("unreadable image", "images/train1.png", True),
    ]
    assert [len(pairs) for pairs in data.splits] == [8, 3, 4]
    assert data.test.captions[:2] == ("fine", "picture 1 of test")
    assert "images/test1.png" in data.test.ids
    assert data.summary()[-1].startswith("grey image: 1 kept: images/train3.png")


def test_bad_pairs_can_be_refused(tiny_data: Path, store: Store) -> None:
    config = replace(config_of(tiny_data), bad_pairs="refuse")
    assert load_data(config, store).problems == ()
    for number in range(5):
        (tiny_data / f"images/train{number}.png").unlink()
    with pytest.raises(
        DataError, match=r"(?s)has faults.*missing image: 5: .*train0.png.* and 2 more.*data.bad_pairs to skip"
    ):
        load_data(config, store)


def test_faults_of_captions_are_refused_before_any_image_is_opened(
    tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(tiny_data, "val", caption="  ")
    monkeypatch.setattr(FileImage, "read", lambda source: pytest.fail(f"{source.name} was read"))
    with pytest.raises(DataError, match=r"(?s)empty caption: 1: .*images/val0.png"):
        load_data(replace(config_of(tiny_data), bad_pairs="refuse"), store)


def test_grey_images_are_kept_skipped_or_refused(tiny_data: Path, store: Store) -> None:
    Image.new("L", (32, 32), 100).save(tiny_data / "images/train3.png")
    config = config_of(tiny_data)
    assert faults(load_data(config, store)) == [("grey image", "images/train3.png", False)]
    skipped = load_data(replace(config, grey_images="skip"), store)
    assert faults(skipped) == [("grey image", "images/train3.png", True)]
    assert len(skipped.train) == 11
    with pytest.raises(DataError, match=r"(?s)grey image: 1: images/train3.png .*data.grey_images to skip"):
        load_data(replace(config, grey_images="refuse"), store)


def test_missing_splits_are_cut_and_said(tiny_data: Path, store: Store) -> None:
    (tiny_data / "tiny_val.json").unlink()
    config = replace(config_of(tiny_data), val_share=0.25)
    data = load_data(config, store)
    assert [len(pairs) for pairs in data.splits] == [9, 3, 4]
    assert data.notes == ("val: 3 images cut from train by seed 0, since the data set has no val split",)
    (tiny_data / "tiny_test.json").unlink()
    both = load_data(config, store)
    assert [len(pairs) for pairs in both.splits] == [7, 2, 3]
    assert not set(both.train.ids) & {*both.val.ids, *both.test.ids}
    assert [note[:4] for note in both.notes] == ["test", "val:"]
    assert load_data(config, store).val.ids == both.val.ids
    other = load_data(replace(config, seed=1), store)
    assert other.val.ids != both.val.ids
    assert other.fingerprint != both.fingerprint


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(tiny_data: Path, tmp_path: Path, store: Store) -> None:
    before = load_data(config_of(tiny_data), store).fingerprint
    shutil.copytree(tiny_data, tmp_path / "elsewhere")
    assert load_data(config_of(tmp_path / "elsewhere"), store).fingerprint == before
    change(tiny_data, "val", caption="another caption")
    changed = load_data(config_of(tiny_data), store).fingerprint
    assert changed != before
    Image.new("RGB", (32, 32), "red").save(tiny_data / "images/test0.png")
    assert load_data(config_of(tiny_data), store).fingerprint not in {before, changed}


def test_nothing_left_to_train_on_is_an_error(tiny_data: Path, store: Store) -> None:
    shutil.move(tiny_data / "images", tiny_data / "pictures")
    with pytest.raises(DataError, match=r"No training image is left of .*missing image: 20 .*Check .*data.images"):
        load_data(config_of(tiny_data), store)


def test_where_no_image_is_found_the_folder_that_has_them_is_named(tiny_data: Path, store: Store) -> None:
    (tiny_data / "photos").mkdir()
    (tiny_data / "images").rename(tiny_data / "photos" / "images")
    with pytest.raises(
        DataError, match=r"images/train0.png is in photos: set data.images to photos, or check data.root"
    ):
        load_data(config_of(tiny_data), store)
    assert len(load_data(replace(config_of(tiny_data), images="photos"), store).train) == 12


def test_the_reader_is_called_once_to_load_and_never_to_open(
    tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    find = readers.find_reader
    monkeypatch.setattr(
        "raydd.data.pairs.find_reader", lambda name: lambda config: (calls.append(name), find(name)(config))[1]
    )
    data = load_data(config_of(tiny_data), store)
    assert calls == ["flat-json"]
    opened = open_data(data.listing, config_of(tiny_data), store)
    assert calls == ["flat-json"]
    assert opened.listing == data.listing
    assert [(pairs.ids, pairs.captions) for pairs in opened.splits] == [(p.ids, p.captions) for p in data.splits]


def test_inverted_images_of_the_same_size_are_another_data_set(tiny_data: Path, store: Store) -> None:
    for name in ("tiny_train.json", "tiny_val.json", "tiny_test.json"):
        path = tiny_data / name
        path.write_text(path.read_text().replace(".png", ".bmp"))
    for path in (tiny_data / "images").iterdir():
        Image.open(path).save(path.with_suffix(".bmp"))
    before = load_data(config_of(tiny_data), store).fingerprint
    for path in (tiny_data / "images").glob("*.bmp"):
        state = path.stat()
        ImageOps.invert(Image.open(path)).save(path)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # only the ctime tells
        assert path.stat().st_size == state.st_size
    assert load_data(config_of(tiny_data), store).fingerprint != before


def test_images_shifted_by_a_row_in_their_parquet_file_are_another_data_set(tmp_path: Path, store: Store) -> None:
    contents = []
    for seed in range(12):
        content = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(content, "BMP")
        contents.append(content.getvalue())
    path, state = tmp_path / "data.parquet", None
    config = DataConfig(reader="parquet", root=str(tmp_path))
    found = []
    for shift in (0, 1):
        rows = {
            "image": [contents[(row + shift) % 12] for row in range(12)],
            "caption": [f"number {row}" for row in range(12)],
        }
        written = io.BytesIO()
        pq.write_table(pa.table(rows), written, compression="none", use_dictionary=False, write_statistics=False)
        with path.open("r+b" if shift else "wb") as file:  # in place: the same inode
            file.write(written.getvalue())
        if state:
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
            assert (path.stat().st_size, path.stat().st_ino) == (state.st_size, state.st_ino)
        state = path.stat()
        data = load_data(config, store)
        number = int(data.train.ids[0].rpartition(":")[2])
        assert data.train.images[0].read() == contents[(number + shift) % 12]
        found.append(data.fingerprint)
    assert found[0] != found[1]


def test_ids_that_start_again_in_each_split_lose_no_image(tmp_path: Path, store: Store) -> None:
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        rows = [
            {"image": Picture(split, f"{n}", ()).content, "caption": f"{split} {n}", "image_id": n}
            for n in range(count)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    data = load_data(DataConfig(reader="parquet", root=str(tmp_path)), store)
    assert [list(pairs.ids) for pairs in data.splits] == [
        ["0", "1", "2", "3", "4"],
        ["val/0", "val/1"],
        ["test/0", "test/1", "test/2"],
    ]
    assert list(data.test.captions) == ["test 0", "test 1", "test 2"]
    assert [image.read() for image in data.test.images] == [Picture("test", f"{n}", ()).content for n in range(3)]
    assert data.summary()[1:] == (
        "duplicate id: 5 kept: test/0, test/1, test/2 and 2 more (train has another image with the id 0)",
    )


def test_training_images_that_are_held_out_too_are_left_out(tiny_data: Path, store: Store) -> None:
    copies = {"train1": "test2", "train5": "val0", "train6": "val0", "val3": "test2", "train8": "train7"}
    for copy, of in copies.items():
        shutil.copy(tiny_data / f"images/{of}.png", tiny_data / f"images/{copy}.png")
    data = load_data(config_of(tiny_data), store)
    assert faults(data) == [
        ("duplicate image", "images/train1.png", True),
        ("duplicate image", "images/train5.png", True),
        ("duplicate image", "images/train6.png", True),
        ("duplicate image", "images/val3.png", False),
    ]
    assert data.problems[0].detail == "train has the same image as images/test2.png of test"
    assert [len(pairs) for pairs in data.splits] == [9, 4, 4]
    assert data.summary()[1] == (
        "duplicate image: 3 left out: images/train1.png, images/train5.png, images/train6.png "
        "(train has the same image as images/test2.png of test)"
    )
    kept = load_data(replace(config_of(tiny_data), duplicates="keep"), store)
    assert faults(kept) == [(kind, which, False) for kind, which, _ in faults(data)]
    assert len(kept.train) == 12
    assert kept.fingerprint != data.fingerprint


def test_images_of_test_do_not_come_to_a_val_that_is_cut(tiny_data: Path, store: Store) -> None:
    (tiny_data / "tiny_val.json").unlink()
    for number in range(4):
        shutil.copy(tiny_data / f"images/test{number}.png", tiny_data / f"images/train{number}.png")
    for number in range(5, 12):  # twins, of which a cut takes one
        shutil.copy(tiny_data / "images/train4.png", tiny_data / f"images/train{number}.png")
    shutil.copy(tiny_data / "images/val0.png", tiny_data / "images/train11.png")
    sizes = set()
    for seed in range(6):
        data = load_data(replace(config_of(tiny_data), seed=seed), store)
        train, val, test = ({image.read() for image in pairs.images} for pairs in data.splits)
        assert len(train | val | test) == len(train) + len(val) + len(test)
        sizes.add((len(data.train), len(data.val)))
    assert (1, 1) in sizes  # a twin was cut, and the six others left out


def test_train_that_is_all_held_out_is_refused(tiny_data: Path, store: Store) -> None:
    (tiny_data / "tiny_val.json").unlink()
    for number in range(12):
        shutil.copy(tiny_data / "images/test0.png", tiny_data / f"images/train{number}.png")
    with pytest.raises(DataError, match=r"No training image is left of .*duplicate image: 12 left out"):
        load_data(config_of(tiny_data), store)


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_split_whose_images_are_all_unreadable_is_not_cut_anew(split: str, tiny_data: Path, store: Store) -> None:
    for number in range(4):
        (tiny_data / f"images/{split}{number}.png").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=rf"None of the 4 {split} images that tiny brings can be used: unreadable image: 4 .*take the"
    ):
        load_data(config_of(tiny_data), store)
    (tiny_data / f"tiny_{split}.json").write_text(json.dumps([{"image": "/etc/passwd", "caption": "x"}]))
    with pytest.raises(DataError, match=rf"None of the 1 {split} images .*image path outside: 1 left out"):
        load_data(config_of(tiny_data), store)


def test_a_reader_of_ones_own_is_confined_too(
    tiny_data: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_reader.py").write_text(
        "from pathlib import Path\n"
        "from raydd.data import Entry, Listing\n"
        "from raydd.data.images import FileImage\n"
        "def read(config):\n"
        "    paths = sorted(Path(config.images or config.root).glob('images/*.png'))\n"
        "    entries = (Entry('train', p.name, FileImage(p.name, str(p)), ('one',)) for p in paths)\n"
        "    return Listing('mine', tuple(entries))\n"
    )
    secret = tmp_path / "secret.png"
    Image.new("RGB", (9, 9), "red").save(secret)
    (tiny_data / "images/link.png").symlink_to(secret)
    monkeypatch.syspath_prepend(tmp_path)
    config = DataConfig(reader="my_reader:read", root=str(tiny_data))
    data = load_data(config, store)
    assert faults(data) == [("image path outside", "link.png", True)]
    assert sum(map(len, data.splits)) == 20
    free = load_data(replace(config, root="", images=str(tiny_data)), store)
    assert faults(free) == []
    assert sum(map(len, free.splits)) == 21


def test_what_checks_can_be_handed_in(tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydd.data.checking.SHARD", 8)
    batches = []

    def check(images):
        batches.append(len(images))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # as workers elsewhere
            return list(pool.map(judge, images))

    (tiny_data / "images/train0.png").write_bytes(b"no image")
    data = load_data(config_of(tiny_data), store, check=check)
    assert batches == [8, 8, 4]
    other = load_data(config_of(tiny_data), Store(tiny_data / "another", cache=tiny_data / "cache"))
    assert (data.fingerprint, data.listing) == (other.fingerprint, other.listing)


def test_names_and_captions_that_are_no_unicode_are_spelt_out(tiny_data: Path, store: Store) -> None:
    (tiny_data / "images/train0.png").rename(tiny_data / "images/k\udcfche.png")
    change(tiny_data, "train", image="images/k\udcfche.png", caption="half \ud83d pair")
    data = load_data(config_of(tiny_data), store)
    assert data.train.ids[0] == "images/k\\udcfche.png"
    assert data.train.captions[0] == "half \\ud83d pair"
    assert open_image(data.train.images[0]).size
    json.dumps([*data.train.ids, *data.train.captions], ensure_ascii=False).encode()
