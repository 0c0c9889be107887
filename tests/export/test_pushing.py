"""A set pushed to a hub on loopback and fetched from it again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_server import TOKEN, USER, Hub, hub  # noqa: F401
from made_sets import ENCODERS, made_set

from raydd.errors import ConfigError
from raydd.export.cards import licence_of
from raydd.export.exporting import push

NAME = f"{USER}/stamps-6"


@pytest.mark.slow
def test_a_pushed_set_is_loaded_from_the_hub_and_the_token_is_said_nowhere(hub: Hub, tmp_path: Path):  # noqa: F811
    pytest.importorskip("datasets")
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "raydd.cli", "export", "--set", str(made_set().folder), "--to", "hf"]
    command += [str(folder), *ENCODERS]
    given = {**os.environ, **hub.environment, "HF_HOME": str(tmp_path / "home"), "HF_DEBUG": "1"}  # all that it logs
    folder.mkdir()
    (folder / "private.txt").write_text("not raydd's, and not to be pushed")
    for _ in range(2):  # the second time the data set is there
        done = subprocess.run([*command, "--push", NAME], env=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].endswith(f"/datasets/{NAME}")
        assert "authenticated: True" in done.stderr
        assert TOKEN not in done.stdout + done.stderr
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del files["private.txt"]
    assert hub.files[NAME] == files
    assert not any(TOKEN.encode() in content for content in files.values())
    code = f"import datasets; print(len(datasets.load_dataset({NAME!r}, split='train')))"
    elsewhere = {**os.environ, **hub.environment, "HF_HOME": str(tmp_path / "another-home")}
    loaded = subprocess.run([sys.executable, "-c", code], env=elsewhere, check=True, capture_output=True, text=True)
    assert loaded.stdout == "6\n"


@pytest.mark.parametrize(
    ("name", "token", "said"),
    [
        (NAME, "hf_wrong", r"Invalid credentials.*The hub does not accept the token. Log in with `hf auth login`"),
        (NAME, "", r"The hub does not accept the token. Log in with `hf auth login`"),
        ("somebody-else/pairs", TOKEN, r"under the namespace somebody-else.*The token may not write there"),
        ("a/b/c", TOKEN, r"a/b/c cannot be pushed.*Check the name, USER/NAME"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    token: str,
    said: str,
):
    at(f"http://127.0.0.1:{hub.port}", monkeypatch, tmp_path)
    monkeypatch.setenv("HF_TOKEN", token)
    (tmp_path / "README.md").write_text("---\nlicense: unknown\n---\n")
    with pytest.raises(ConfigError, match=said) as error:
        push(tmp_path, name, ["README.md"])
    assert TOKEN not in str(error.value)
    assert "\n" not in str(error.value)
    assert not hub.files


@pytest.fixture
def reached_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:  # noqa: F811
    at(f"http://127.0.0.1:{hub.port}", monkeypatch, tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.mark.usefixtures("reached_hub")
def test_a_card_that_the_hub_refuses_is_said_with_the_reason(tmp_path: Path):
    (tmp_path / "README.md").write_text("---\nlicense: ask me\n---\n")
    with pytest.raises(ConfigError, match=r'Invalid metadata in README.md. "license" must be one of \[apache') as error:
        push(tmp_path, NAME, ["README.md"])
    assert "\n" not in str(error.value)


def test_a_licence_in_words_of_one_s_own_is_pushed(reached_hub: Hub, tmp_path: Path):
    metadata, _ = licence_of("mine", "csv", "For research only, ask me")
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump(metadata)}---\n")
    push(tmp_path, NAME, ["README.md"])
    assert b"license_name: for-research-only-ask-me" in reached_hub.files[NAME]["README.md"]


def test_a_hub_that_cannot_be_reached_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    at("http://127.0.0.1:9", monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match=r"Check the name, USER/NAME, the network and \$HF_ENDPOINT"):
        push(tmp_path, NAME, ["README.md"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"(offline mode|Connection refused).*and run the command again"):
        push(tmp_path, NAME, ["README.md"])


def at(endpoint: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Have this process take another hub, and nobody logged in; a new process reads both from its environment."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(home / "token"))
