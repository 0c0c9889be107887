"""The files of an export, next to those that the set's record holds already."""

import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from written_sets import N, made, saved

from raydd.export import formats
from raydd.export.exporting import exported_file_names
from raydd.sets.read import OpenedSet, set_of_record
from raydd.sets.write import image_file


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenedSet:
    """A set with pixels, after whose making no image is encoded any more."""
    opened = set_of_record(saved(tmp_path / "store"))

    def encoded_again(*_: Any, **__: Any) -> None:
        raise AssertionError("an image was encoded again")

    monkeypatch.setattr(Image.Image, "save", encoded_again)
    return opened


@pytest.fixture
def pngs(opened: OpenedSet) -> list[bytes]:
    return [opened.record.read(image_file(number)) for number in range(N)]


def test_pictures_are_the_bytes_of_the_record(opened: OpenedSet, pngs: list[bytes], tmp_path: Path):
    files = formats.write_plain(opened, tmp_path / "png")
    names = exported_file_names(files, N)
    assert sorted(names) == sorted(
        str(file.relative_to(tmp_path / "png")) for file in (tmp_path / "png").rglob("*") if file.is_file()
    )
    assert [(tmp_path / "png" / image_file(number)).read_bytes() for number in range(N)] == pngs
    formats.write_hugging_face(opened, tmp_path / "hf")
    images = pq.read_table(tmp_path / "hf" / formats.PARQUET)["image"].to_pylist()
    assert images == [{"bytes": png, "path": f"{number:03}.png"} for number, png in enumerate(pngs)]


def test_a_shard_is_made_once_and_its_description_names_the_members_of_a_pair(
    opened: OpenedSet, pngs: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    times, members = [], formats._shard_members
    monkeypatch.setattr(formats, "_shard_members", lambda opened: times.append(1) or members(opened))
    files = formats.write_webdataset(opened, tmp_path)
    with tarfile.open(tmp_path / formats.SHARD) as shard:
        names = shard.getnames()
        assert [shard.extractfile(f"{number:06}.png").read() for number in range(N)] == pngs  # type: ignore[union-attr]
    assert files[formats.SHARD] == f"the pairs: {', '.join(names[: len(names) // N])}"
    assert len(times) == 1


def test_a_shard_of_features_has_no_pictures(tmp_path: Path):
    opened = set_of_record(saved(tmp_path / "store", made(pixels=False)))
    assert "png" not in formats.write_webdataset(opened, tmp_path)[formats.SHARD]
