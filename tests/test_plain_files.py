import os
from pathlib import Path

import pytest

from raydd.errors import ConfigError
from raydd.plain_files import expanded, is_plain, read_file, require_writable


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert read_file(tmp_path / "a", 5) == read_file(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes, over the limit of 4"):
        read_file(tmp_path / "a", 4)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"pipe, a socket or a device|[Dd]irectory|folder"):
            read_file(path, 10)
        assert not is_plain(path, path.parent)


def test_a_link_that_leaves_a_folder_is_not_of_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.png").write_bytes(b"x")
    (tmp_path / "in" / "own.png").write_bytes(b"x")
    (tmp_path / "in" / "alias.png").symlink_to("own.png")
    (tmp_path / "in" / "leaves.png").symlink_to("../out.png")
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    inside = {path.name for path in (tmp_path / "in").iterdir() if is_plain(path, tmp_path / "in")}
    assert inside == {"own.png", "alias.png"}


def test_an_output_is_refused_before_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    require_writable(tmp_path / "new" / "deep" / "scores.json", "--json")
    require_writable(tmp_path / "file", "--json")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "scores.json", "is a file, not a folder"),
        (tmp_path / ("a" * 300), "name too long"),
        (Path("/proc/nothing/scores.json"), "cannot be written"),
    ):
        with pytest.raises(ConfigError, match=f"--json.*{said}"):
            require_writable(path, "--json")


def test_an_unknown_home_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"data\.root is '~nobody-here/x', but the home folder cannot be found"):
        expanded("~nobody-here/x", "data.root")
