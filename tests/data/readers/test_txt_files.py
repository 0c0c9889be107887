import os
from pathlib import Path

import pytest
from layouts import Picture

from raydd.config import DataConfig
from raydd.data import load_data
from raydd.data.readers.txt_files import read
from raydd.errors import DataError
from raydd.store import Store

A = Picture("train", "a", ()).content


def config(root: Path) -> DataConfig:
    return DataConfig(reader="txt", root=str(root))


def put(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_each_line_is_a_caption_and_folders_tell_the_split(tmp_path: Path) -> None:
    put(tmp_path, {"._a.png": b"x", "._a.txt": b"x", "__MACOSX/._b.png": b"x", ".trash/c.png": A, ".trash/c.txt": b"x"})
    put(
        tmp_path,
        {"test-dog.png": A, "test-dog.txt": b"\xef\xbb\xbfone\r\n\r\n two \n", "val/b.JPG": A, "val/b.txt": b"three"},
    )
    assert [(entry.split, entry.id, entry.captions) for entry in read(config(tmp_path)).entries] == [
        ("train", "test-dog.png", ("one", "two")),
        ("val", "val/b.JPG", ("three",)),
    ]


def test_faults_are_named(tmp_path: Path, store: Store) -> None:
    good = {
        f"good{i}.{end}": Picture("", f"{i}", ()).content if end == "png" else b"fine"
        for i in range(4)
        for end in ("png", "txt")
    }
    put(
        tmp_path,
        {
            **good,
            "bare.png": A,
            "lone.txt": b"x",
            "odd.png": A,
            "odd.txt": b"caf\xe9",
            "big.png": A,
            "big.txt": b"x" * 10_000_000,
        },
    )
    put(tmp_path, {"pipe.png": A, "away.png": A, "broken.png": b"", "broken.txt": b"x"})
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "away.txt").symlink_to("/etc/passwd")
    problems = {
        problem.which: (problem.kind, problem.detail) for problem in load_data(config(tmp_path), store).problems
    }
    assert {which: kind for which, (kind, _) in problems.items()} == {
        "bare.png": "empty caption",
        "lone.txt": "missing image",
        "odd.png": "unreadable caption",
        "big.png": "unreadable caption",
        "pipe.png": "unreadable caption",
        "away.png": "unreadable caption",
        "broken.png": "unreadable image",
    }
    assert "probably WINDOWS-1252" in problems["odd.png"][1]
    assert "iconv -f WINDOWS-1252" in problems["odd.png"][1]
    assert "10,000,000 bytes, over the limit" in problems["big.png"][1]
    assert "it is a pipe" in problems["pipe.png"][1]


def test_links_of_images_and_folders_do_not_leave(tmp_path: Path, store: Store) -> None:
    put(tmp_path / "out", {"private.png": A, "private.txt": b"x"})
    put(
        tmp_path / "in",
        {f"{i}.png": Picture("", f"{i}", ()).content for i in range(4)} | {f"{i}.txt": b"x" for i in range(4)},
    )
    (tmp_path / "in" / "up").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "a.png").symlink_to(tmp_path / "out" / "private.png")
    put(tmp_path / "in", {"a.txt": b"x"})
    data = load_data(config(tmp_path / "in"), store)
    assert [(problem.kind, problem.which) for problem in data.problems] == [("image path outside", "a.png")]
    assert sum(map(len, data.splits)) == 4


def test_a_folder_without_captions_is_refused(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": A, "notes.txt": b"x"})
    with pytest.raises(
        DataError, match=r"holds no image with a caption next to it \(NAME.jpg and NAME.txt\); images: 1. Check"
    ):
        read(config(tmp_path))
