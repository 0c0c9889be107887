from pathlib import Path

import numpy as np
import pytest

from raydd.data import known_images
from raydd.data.checking import check_images, image_digests, judge
from raydd.data.images import FileImage
from raydd.data.known_images import Known, KnownImages, stamps_of
from raydd.progress import silent
from raydd.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", cache=tmp_path / "cache")


@pytest.fixture
def images(tiny_data: Path) -> list[FileImage]:
    return [FileImage(path.name, str(path)) for path in sorted((tiny_data / "images").iterdir())]


class Counting:
    """Judges images and notes which."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, images):
        self.read += [image.name for image in images]
        return list(map(judge, images))


def rows(count: int, first: int = 0) -> np.ndarray:
    return np.arange(2 * first, 2 * (first + count), dtype=np.int64).reshape(-1, 2) + 1


def test_places_of_stamps() -> None:
    known = Known.of(rows(5), rows(5, 9), {3: ("grey image", "why"), 4: ("grey image", "why")})
    assert known.indices_of(rows(3, 3)).tolist() == [3, 4, -1]
    assert known.texts == (("grey image", "why"),)
    assert [known.fault(place) for place in (0, 3)] == [None, ("grey image", "why")]
    half = rows(1).copy()
    half[0, 1] += 1  # another stamp with the same first 64 bits
    assert known.indices_of(half).tolist() == [-1]
    missing = np.zeros((1, 2), np.int64)
    assert Known.of(missing, rows(1), {}).indices_of(missing).tolist() == [-1]
    assert Known.of(rows(0), rows(0), {}).indices_of(rows(2)).tolist() == [-1, -1]


def test_only_what_changed_is_read_again(images: list[FileImage], store: Store) -> None:
    check = Counting()
    Path(images[3].path).write_bytes(b"no image")
    first = check_images(images, "tiny", store, silent, check)
    assert len(check.read) == len(images)
    assert list(first.faults) == [3]
    check.read.clear()
    Path(images[5].path).write_bytes(Path(images[6].path).read_bytes())
    second = check_images(images[1:], "tiny", store, silent, check)
    assert check.read == [images[5].name]
    assert second.faults == {2: first.faults[3]}
    assert (second.digests[4] == first.digests[6]).all()
    assert len(KnownImages(store, "tiny").known[0].stamps) == len(images) - 1  # those of the last listing alone


def test_what_cannot_be_read_is_tried_again_and_rewrites_nothing(images: list[FileImage], store: Store) -> None:
    content = Path(images[0].path).read_bytes()
    Path(images[0].path).unlink()
    assert check_images(images, "tiny", store, silent).faults[0][0] == "missing image"
    (kept,) = (store.machine_store().folder or Path()).rglob("known.safetensors")
    inode = kept.stat().st_ino
    check = Counting()
    assert check_images(images, "tiny", store, silent, check).faults[0][0] == "missing image"
    assert check.read == [images[0].name]
    assert kept.stat().st_ino == inode
    Path(images[0].path).write_bytes(content)
    assert check_images(images, "tiny", store, silent).faults == {}


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_damaged_file_is_not_believed(damage: bytes | None, images: list[FileImage], store: Store) -> None:
    first = check_images(images, "tiny", store, silent)
    (kept,) = (store.machine_store().folder or Path()).rglob("known.safetensors")
    content = bytearray(kept.read_bytes())
    content[-3] ^= 1
    kept.write_bytes(content if damage is None else damage)
    check = Counting()
    assert (check_images(images, "tiny", store, silent, check).digests == first.digests).all()
    assert len(check.read) == len(images)


def test_a_killed_check_goes_on_and_leaves_no_shard(
    images: list[FileImage], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydd.data.checking.SHARD", 4)

    def killed(work: str, done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_images(images, "tiny", store, killed)
    assert len(KnownImages(store, "tiny").parts) == 2
    told, check = [], Counting()
    check_images(images, "tiny", store, lambda *said: told.append(said), check)
    assert check.read == [image.name for image in images[8:]]
    assert told[0] == ("checking images", 9, len(images))
    assert KnownImages(store, "tiny").parts == []
    check.read.clear()
    check_images(images, "tiny", store, silent, check)
    assert check.read == []


def test_two_checks_at_once_do_each_other_no_harm(images: list[FileImage], store: Store) -> None:
    first, second = KnownImages(store, "tiny"), KnownImages(store, "tiny")
    known = Known.of(stamps_of(images), rows(len(images)), {})
    first.add(known)
    late = KnownImages(store, "tiny")
    second.add(known)
    first.keep(known)
    assert len(KnownImages(store, "tiny").parts) == 1  # the other's, which is still at it
    second.keep(known)
    late.keep(known)
    found = KnownImages(store, "tiny")
    assert found.parts == []
    assert (found.known[0].stamps == known.stamps).all()


def test_the_folder_is_bounded(images: list[FileImage], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_images, "MOST_DATA_SETS", 2)
    for name in "abc":
        check_images(images[:2], name, store, silent)
    check = Counting()
    for name in "bca":
        check_images(images[:2], name, store, silent, check)
    assert len(check.read) == 2


def test_digests_are_of_the_content_and_independent_of_the_place(images: list[FileImage], store: Store) -> None:
    twin = Path(images[0].path).with_name("twin.png")
    twin.write_bytes(Path(images[0].path).read_bytes())
    first, second, other = image_digests([images[0], FileImage("twin", str(twin)), images[1]], "x", store, silent)
    assert first == second != other
    assert len(first) == 32
