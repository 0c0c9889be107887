from pathlib import Path

import pytest

from raydd.config import DataConfig
from raydd.data import Entry
from raydd.data.image_paths import BASES, ImagePaths, confined
from raydd.data.images import FileImage
from raydd.errors import DataError


def entry(path: Path | str) -> Entry:
    return Entry("train", "a", FileImage("the name", str(path)), ("a caption",))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("root/sub", "root/.hidden", "images", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(b"an image")
    (tmp_path / "root/a.png").write_bytes(b"an image")
    return tmp_path / "root"


def kinds(config: DataConfig, path: Path | str) -> list[str]:
    entries, problems = confined([entry(path)], config)
    assert len(entries) + len(problems) == 1
    return [f"{problem.kind}: {problem.which}" for problem in problems]


@pytest.mark.parametrize("path", ["a.png", "sub/a.png", "sub/../a.png", "missing.png"])
def test_files_of_the_root_stay(path: str, root: Path) -> None:
    assert kinds(DataConfig(root=str(root)), root / path) == []


@pytest.mark.parametrize(
    "path", ["../elsewhere/a.png", "sub/../../elsewhere/a.png", ".", "..", "a\0.png", "/etc/passwd"]
)
def test_files_outside_are_left_out(path: str, root: Path) -> None:
    full = path if path.startswith("/") else f"{root}/{path}"  # Path would drop the dots
    assert kinds(DataConfig(root=str(root)), full) == ["image path outside: the name"]


def test_links_are_followed(root: Path) -> None:
    (root / "link.png").symlink_to(root.parent / "elsewhere/a.png")
    (root / "linked").symlink_to(root.parent / "elsewhere")
    (root / "inside.png").symlink_to(root / "sub/a.png")
    config = DataConfig(root=str(root))
    assert kinds(config, root / "link.png") == kinds(config, root / "linked/a.png") == ["image path outside: the name"]
    assert kinds(config, root / "inside.png") == []
    assert kinds(DataConfig(root=str(root), images="linked"), root / "linked/a.png") == []


def test_the_images_folder_counts_too_and_a_relative_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root.parent / "images/a.png"
    assert kinds(DataConfig(root=str(root)), path) != []
    assert kinds(DataConfig(root=str(root), images="../images"), path) == []
    monkeypatch.chdir(root.parent)
    assert kinds(DataConfig(root="root"), "root/a.png") == []
    assert kinds(DataConfig(root="root"), "elsewhere/a.png") != []


def test_without_a_root_all_stay() -> None:
    assert kinds(DataConfig(), "/etc/passwd") == []


@pytest.mark.parametrize(
    ("path", "base", "rest"),
    [
        ("root/sub/a.png", "data.root", "sub/a.png"),
        ("root/a.png", "data.root", "a.png"),
        ("root/.hidden/a.png", "data.root", ".hidden/a.png"),
        ("images/a.png", "data.images", "a.png"),
        ("real/a.png", "data.root", "a.png"),
        ("elsewhere/a.png", "nothing", None),
    ],
)
def test_paths_are_relative_to_the_folder_they_lie_in(path: str, base: str, rest: str | None, root: Path) -> None:
    """`real` is what the settings' root is a link to."""
    (root.parent / "real").symlink_to(root)
    paths = ImagePaths.of(DataConfig(root=str(root), images="../images"))
    full = str(root.parent / path)
    number, found = paths.relative(full)
    assert (BASES[number], found) == (base, rest or full)
    assert Path(paths.absolute(number, found)).samefile(full)
    moved = ImagePaths.of(DataConfig(root="/other", images="/pictures"))
    there = {"data.root": f"/other/{rest}", "data.images": f"/pictures/{rest}", "nothing": full}
    assert moved.absolute(number, found) == there[base]


def test_a_root_that_is_missing_here_is_named() -> None:
    with pytest.raises(DataError, match=r"listed with data.root, which is empty here. Set it"):
        ImagePaths.of(DataConfig()).absolute(BASES.index("data.root"), "a.png")


def test_a_link_that_leads_outside_is_followed_in_the_message(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big/a.png").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/images").symlink_to(tmp_path / "big")
    entry = Entry("train", "a", FileImage("a", str(tmp_path / "root/images/a.png")), ("x",))
    _, (problem,) = confined([entry], DataConfig(root=str(tmp_path / "root")))
    assert f"a link leads to {tmp_path}/big/a.png, outside of data.root" in problem.detail
