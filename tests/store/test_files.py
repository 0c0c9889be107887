import os
from pathlib import Path

import pytest

from raydd.errors import PlaceError
from raydd.store.files import write_whole


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[tuple[str, object]] = []
    sync, move = os.fsync, Path.replace

    def synced(number: int) -> None:
        sync(number)
        done.append(("on the disk", os.fstat(number).st_size))

    def moved(source: Path, target: Path) -> Path:
        done.append(("named", target))
        return move(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    path = tmp_path / "new" / "folder" / "file"
    for content in (b"1234", b"123456"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert done == [("on the disk", 4), ("named", path), ("on the disk", 6), ("named", path)]


def test_what_could_not_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlaceError, match=r"no room for file \(No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
