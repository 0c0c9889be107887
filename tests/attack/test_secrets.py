"""A planted password is shown nowhere: not in plans, errors, settings, logs, records, databases or process lists."""

import json
import sqlite3
from pathlib import Path

import psutil
import pytest
from attacking import attack, flags

from raydd import secrets_hidden

SECRET = "pl4nted-S3cret"
ADDRESSES = [
    f"postgresql://u:{SECRET}@127.0.0.1:9/x",
    f"postgresql://127.0.0.1:9/x?user=u&password={SECRET}",
    f"postgresql://u:{SECRET}@127.0.0.1:port/x",
    f"nonsense://u:{SECRET}@127.0.0.1/x",
    f"mysql+nothing://u:{SECRET}@127.0.0.1/x?token={SECRET}",
]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_hidden, "_known", set())


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("by", ["flag", "environment"])
def test_an_error_of_a_database_names_it_without_its_password(
    tmp_path: Path, address: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--place.study", address] if by == "flag" else []
    monkeypatch.setenv("RAYDD_STUDY", address)
    said = attack("watch", "--place.home", tmp_path, *given)
    assert said.is_refusal_of("study's database", "***")
    assert SECRET not in said.error


@pytest.mark.parametrize(
    "address", [*ADDRESSES[:2], f"https://{SECRET}@host/", f"https://host/?token={SECRET}", f"http://u:{SECRET}@h:5000"]
)
@pytest.mark.parametrize("name", ["study", "mlflow", "store"])
def test_printed_settings_hold_no_password(address: str, name: str) -> None:
    said = attack("run", f"--place.{name}", address, "--print_config")
    assert said.is_in_order()
    assert SECRET not in said.out + said.error
    assert "***" in said.out


@pytest.mark.parametrize("address", [f"https://{SECRET}@host/", f"https://host/?token={SECRET}"])
def test_the_board_shows_a_server_without_its_token(tmp_path: Path, address: str) -> None:
    said = attack("board", "--place.home", tmp_path, "--place.mlflow", address)
    assert said.code == 0
    assert "https://" in said.out
    assert SECRET not in said.out + said.error


@pytest.mark.parametrize("address", [f"s3://{SECRET}@bucket/x", f"s3://u:{SECRET}@bucket/x", f"s3://b/x?key={SECRET}"])
def test_a_store_s_address_with_a_key_is_refused_without_it(tmp_path: Path, address: str) -> None:
    said = attack("verify", "--place.home", tmp_path, "--place.store", address)
    assert said.is_refusal_of("store's address")
    assert SECRET not in said.error


def test_a_wrong_setting_is_shown_without_the_password_in_it(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"place: {{study: [postgresql://u:{SECRET}@h/x]}}")
    said = attack("run", "--config", tmp_path / "s.yaml", "--print_config")
    assert said.is_refusal_of("place.study")
    assert SECRET not in said.error


@pytest.mark.slow
def test_a_sweep_leaves_its_passwords_nowhere(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes options that it does not know, which stand here for a server's password."""
    from raydd.cluster.environment import prepare_environment

    prepare_environment("local")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.py").write_text(
        "FIRST = ({'distill.image_lr': 0.05},)\n\n\ndef small(trial):\n"
        "    trial.suggest_float('distill.image_lr', 0.01, 0.1, log=True)\n"
    )
    home = tmp_path / "home"
    for name in ("study", "mlflow"):
        monkeypatch.setenv(
            {"study": "RAYDD_STUDY", "mlflow": "MLFLOW_TRACKING_URI"}[name],
            f"sqlite:///file:{tmp_path}/{name}.db?uri=true&password={SECRET}",
        )
    given = flags(tiny_data, home, sweep_trials=2, sweep_finalists=1, sweep_name="small", students_epochs=2)
    at = given.index("--place.mlflow")
    given = [*given[:at], *given[at + 2 :], "--sweep.space", f"{tmp_path}/space.py:small"]
    shown = ""
    command_lines: list[str] = []
    with monkeypatch.context() as patch:
        import ray

        shut = ray.shutdown

        def looked() -> None:
            command_lines.extend(" ".join(each.cmdline()) for each in psutil.Process().children(recursive=True))
            shut()

        patch.setattr(ray, "shutdown", looked)
        said = attack("sweep", *given)
        shown = said.out + said.error
    assert said.code == 0, said
    assert SECRET not in shown
    assert command_lines
    assert not any(SECRET in line for line in command_lines)
    for file in tmp_path.rglob("*"):  # records, logs, tables, both databases, Ray's sessions
        if file.is_file() and not file.is_symlink():
            assert SECRET.encode() not in file.read_bytes(), file
    assert json.loads((home / "sweeps" / "small" / "result.json").read_text())["finalists"]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select count(*) from params").fetchone()[0] > 0
    for folder in (home, home / "ray"):
        assert not folder.exists() or folder.stat().st_mode & 0o077 == 0
