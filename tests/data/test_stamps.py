from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageDraw
from scripts import loaded

from raydd.config import DataConfig
from raydd.data import DataSet, load_data, open_image
from raydd.data.readers import stamps
from raydd.store import Store


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return load_data(DataConfig(), Store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def bundling() -> ModuleType:
    """The script that makes the bundled file."""
    return loaded(Path(__file__).parents[2] / "tools/bundle_stamps.py")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package like Debian's, with few pictures."""
    folder = tmp_path / "package/usr/share/tuxpaint/stamps"
    shapes = {
        "animals/frog": "green",
        "animals/frog-1": "blue",
        "toys/cube": "red",
        "symbols/one": "red",
        "bare": "red",
    }
    for name, colour in shapes.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGBA", (300, 100))
        ImageDraw.Draw(picture).rectangle((10 * len(name), 20, 250, 60), fill=colour)
        picture.save(path)
        if name != "bare":
            path.with_suffix(".txt").write_text(f"A {Path(name).name}.\nde.utf8=Ein Ding.\n")
    Image.new("RGBA", (9, 9), "white").save(folder / "toys/white.png")
    (folder / "toys/white.txt").write_text("A white thing.\n")
    return folder


def test_the_file_is_small_and_brings_its_licence() -> None:
    assert (stamps.FOLDER / "stamps.parquet").stat().st_size <= 5_000_000
    assert "GNU GENERAL PUBLIC LICENSE" in (stamps.FOLDER / "GPL-2.0.txt").read_text()
    assert "tuxpaint-stamps-default" in (stamps.FOLDER / "NOTICE.md").read_text()


def test_the_notice_has_the_right_numbers(data: DataSet) -> None:
    notice = (stamps.FOLDER / "NOTICE.md").read_text()
    train, val, test = (len(pairs) for pairs in data.splits)
    assert f"holds {train + val + test} pictures" in notice
    assert f"{train} train,\n  {val} val, {test} test" in notice


def test_every_picture_opens_and_has_its_caption(data: DataSet) -> None:
    assert {problem.kind for problem in data.problems} == {"grey image"}
    assert not any(problem.left_out for problem in data.problems)
    for pairs in data.splits:
        assert {open_image(source).size for source in pairs.images} == {(224, 224)}
        assert len(pairs.captions) == len(pairs)


def test_the_shares_of_the_splits(data: DataSet) -> None:
    sizes = [len(pairs) for pairs in data.splits]
    assert sum(sizes) > 650
    assert [round(size / sum(sizes), 2) for size in sizes] == [0.73, 0.09, 0.18]
    assert data.notes == ()


def test_near_same_pictures_are_on_one_side_and_held_out_captions_are_unambiguous(data: DataSet) -> None:
    sides = defaultdict(set)
    for entry in stamps.read(DataConfig()).entries:
        sides[entry.group].add(entry.split)
    assert {len(splits) for splits in sides.values()} == {1}
    captions = Counter(caption.lower() for pairs in data.splits for caption in pairs.captions)
    assert all(captions[caption.lower()] == 1 for pairs in (data.val, data.test) for caption in pairs.captions)


def test_only_captioned_visible_pictures_are_bundled(bundling: ModuleType, package: Path) -> None:
    read = bundling.read_stamps(package)
    assert [(stamp.path, stamp.caption) for stamp in read] == [
        ("animals/frog-1", "A frog-1."),
        ("animals/frog", "A frog."),
        ("toys/cube", "A cube."),
    ]
    assert bundling.group(read) == ["animals/frog-1", "animals/frog-1", "toys/cube"]


def test_bundling_twice_gives_the_same_bytes(bundling: ModuleType, package: Path) -> None:
    read = bundling.read_stamps(package)
    contents = {bundling.to_parquet(read, bundling.group(read), ["train", "val", "test"]) for _ in range(2)}
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("name", "family"),
    [("a/frog", "frog"), ("b/Frog-1", "frog"), ("fireman240a", "fireman"), ("grave-b", "grave"), ("cow_mirror", "cow")],
)
def test_families_of_file_names(bundling: ModuleType, name: str, family: str) -> None:
    assert bundling.family(name) == family
