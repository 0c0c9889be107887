import sys
from pathlib import Path

import pytest

from raydd.cli import main
from raydd.store import Record, Store


@pytest.fixture
def record(tmp_path: Path) -> Record:
    record = Record.of(Store(tmp_path / "home" / "store"), "scores", {}, {}, version=1)
    record.write_json("scores.json", [{"r_mean": 22.8}])
    record.finish()
    return record


@pytest.fixture
def verify(tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAYDD_STORE", raising=False)
    return lambda *flags: main(["verify", "--place.home", str(tmp_path / "home"), *flags])


def damage(record: Record) -> Path:
    path = record.local("scores.json")
    path.write_bytes(path.read_bytes().replace(b"22.8", b"99.9"))
    return path


def test_a_store_in_order(verify, capsys: pytest.CaptureFixture[str]):
    assert verify() == 0
    said = capsys.readouterr().out
    assert "1 records with 2 files" in said
    assert "Nothing is wrong." in said


def test_a_damaged_file_is_named_and_left(verify, record: Record, capsys: pytest.CaptureFixture[str]):
    path = damage(record)
    assert verify() == 1
    said = capsys.readouterr().out
    assert f"damaged: {record.folder}/scores.json is damaged: its content is not what was written\n" in said
    assert "Wrong: 1 damaged." in said
    assert path.exists()


def test_what_is_deleted_is_listed_before(verify, record: Record, capsys: pytest.CaptureFixture[str]):
    path = damage(record)
    assert verify("--delete", "--yes") == 0
    said = capsys.readouterr().out
    assert said.index("damaged: ") < said.index("1 deleted")
    assert not path.exists()
    assert not record.complete
    assert verify() == 0


@pytest.mark.parametrize(("answer", "deleted"), [("y", True), ("YES", True), ("n", False), ("", False)])
def test_a_terminal_is_asked(
    verify,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    deleted: bool,
):
    path = damage(record)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda *_: answer)
    assert verify("--delete") == (0 if deleted else 1)
    assert "Delete 1 of them? [y/N] " in capsys.readouterr().out
    assert path.exists() is not deleted


def test_without_a_terminal_nothing_is_deleted_unasked(verify, record: Record, capsys: pytest.CaptureFixture[str]):
    path = damage(record)
    assert verify("--delete") == 2
    assert "Add --yes" in capsys.readouterr().err
    assert path.exists()


def test_what_raydd_did_not_write_is_left_and_the_exit_code_says_so(
    verify, record: Record, capsys: pytest.CaptureFixture[str]
):
    damage(record)
    note = record.local("manifest.json").with_name("notes.txt")
    note.write_text("x")
    assert verify("--delete", "--yes") == 1
    assert "Wrong: 1 damaged, 1 unknown." in capsys.readouterr().out
    assert note.exists()


def test_a_store_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", "--place.store", str(tmp_path / "nowhere")]) == 2
    assert "There is no store in" in capsys.readouterr().err
