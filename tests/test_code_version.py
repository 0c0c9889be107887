"""What a record says of the code that made it, from real git checkouts."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

import raydd
from raydd.code_version import code_version
from raydd.store import Record, Store


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "module.py").write_text("ONE = 1\n")
    git(folder, "add", "module.py")
    git(folder, "commit", "--quiet", "-m", "One")
    git(folder, "tag", "v9")  # a tag does not stand in for the commit
    return folder


def test_a_checkout_is_named_by_its_commit_and_says_when_it_was_changed(checkout: Path):
    commit = git(checkout, "rev-parse", "HEAD")[:12]
    (checkout / "outputs").mkdir()
    (checkout / "outputs/scores.json").write_text("{}")  # a file that git does not know changes no code
    assert code_version(checkout) == f"{raydd.__version__}+g{commit}"
    (checkout / "module.py").write_text("ONE = 2\n")
    code_version.cache_clear()
    assert code_version(checkout) == f"{raydd.__version__}+g{commit}.dirty"


def test_an_installed_package_inside_somebody_s_checkout_is_its_version_alone(checkout: Path):
    (checkout / "site-packages").mkdir()
    assert code_version(checkout / "site-packages") == raydd.__version__


def test_without_git_it_is_the_version_alone(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version(checkout) == raydd.__version__


def test_an_empty_repository_is_the_version_alone(tmp_path: Path):
    git(tmp_path, "init", "--quiet")
    assert code_version(tmp_path) == raydd.__version__


def test_manifest_and_tensors_of_a_record_say_it_and_its_name_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def made() -> Record:
        record = Record.of(Store(tmp_path), "stage", {"lr": 0.1}, {}, version=1)
        record.write_tensors("x.safetensors", {"a": torch.zeros(2)})
        record.finish()
        return record

    first = made()
    assert json.loads(first.read("manifest.json"))["raydd"] == code_version()
    with safe_open(first.local("x.safetensors"), framework="pt") as file:
        assert file.metadata()["raydd"] == code_version()
    monkeypatch.setattr("raydd.store.records.code_version", lambda: "9.9")
    second = made()
    assert second.fingerprint == first.fingerprint
    assert second.read_json("manifest.json")["raydd"] == "9.9"


def test_the_version_is_the_same_wherever_it_stands():
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == citation["version"] == raydd.__version__
    assert citation["authors"] == project["authors"] == [{"name": "The raydd authors"}]
    assert f"## {raydd.__version__}" in (root / "CHANGELOG.md").read_text(encoding="utf-8")
