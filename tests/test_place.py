import stat
from pathlib import Path

import pytest

from raydd.config import PlaceConfig
from raydd.errors import ConfigError
from raydd.place import make_home, open_store, sqlite_file, study_address


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("sqlite:////home/me/studies.db", Path("/home/me/studies.db")),
        ("sqlite:///here.db", Path("here.db")),
        ("postgresql://h/x", None),
        ("http://h", None),
        ("none", None),
    ],
)
def test_the_file_of_an_address(address: str, file: Path | None):
    assert sqlite_file(address) == file


@pytest.mark.parametrize("rest", ["//", "///", "///?timeout=9", "///:memory:", "///file:x?mode=memory&uri=true"])
def test_a_study_in_memory_is_refused(rest: str):
    with pytest.raises(ConfigError, match=rf"sqlite:{rest}".replace("?", r"\?") + " is in memory"):
        study_address(PlaceConfig(study=f"sqlite:{rest}"))
    assert study_address(PlaceConfig(study="sqlite:///x.db")) == "sqlite:///x.db"
    assert study_address(PlaceConfig(study="sqlite:////a/x.db?timeout=9")) == "sqlite:////a/x.db?timeout=9"


def test_a_new_home_is_readable_by_its_owner_alone(tmp_path: Path):
    assert mode(make_home(PlaceConfig(home=str(tmp_path / "a" / "home")))) == 0o700


@pytest.mark.parametrize("files", [[], ["studies.db", "mlflow.db-wal", "mlflow.lock", "board.log", "store", "ray"]])
def test_a_home_of_an_older_version_is_closed_to_others(tmp_path: Path, files: list[str]):
    tmp_path.chmod(0o775)
    for name in files:
        (tmp_path / name).touch()
    open_store(PlaceConfig(home=str(tmp_path)))
    assert mode(tmp_path) == 0o700


@pytest.mark.parametrize(("before", "file"), [(0o755, "thesis.tex"), (0o2770, "studies.db"), (0o1777, "studies.db")])
def test_a_folder_of_other_things_or_of_a_group_stays_open(tmp_path: Path, before: int, file: str):
    (tmp_path / file).touch()
    tmp_path.chmod(before)
    make_home(PlaceConfig(home=str(tmp_path)))
    assert mode(tmp_path) == before
