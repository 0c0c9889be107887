"""A planted password is shown nowhere: not in plans, errors, settings, logs, records, databases or process lists."""

import contextlib
import json
import logging
import math
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy
from attacking import attack, flags
from mlflow_server import door, mlflow_server
from postgres import Postgres
from s3_server import BUCKET, Server, s3  # noqa: F401

from raydd import preflight, secrets_hidden
from raydd.config import Config
from raydd.settings import load

SECRET = "pl4nted-S3cret"
ENDPOINT = f"s3://b/x?region=r&endpoint_override=http%3A%2F%2Fu%3A{SECRET}%40127.0.0.1%3A1"
ADDRESSES = [
    f"postgresql://u:{SECRET}@127.0.0.1:9/x",
    f"postgresql+psycopg://127.0.0.1:9/x?user=u&password={SECRET}",
    f"postgresql://u:{SECRET}@127.0.0.1:port/x",
    f"nonsense://u:{SECRET}@127.0.0.1/x",
    f"mysql+nothing://u:{SECRET}@127.0.0.1/x?token={SECRET}",
]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_hidden, "_known_secrets", set())


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
@pytest.mark.parametrize("name", ["study", "mlflow", "store", "ray"])
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


@pytest.mark.parametrize(
    "address", [f"s3://{SECRET}@bucket/x", f"s3://u:{SECRET}@bucket/x", f"s3://b/x?key={SECRET}", ENDPOINT]
)
def test_a_store_s_address_with_a_key_is_refused_without_it(tmp_path: Path, address: str) -> None:
    said = attack("verify", "--place.home", tmp_path, "--place.store", address)
    assert said.is_refusal_of("store's address")
    assert SECRET not in said.error


def test_a_wrong_setting_is_shown_without_the_password_in_it(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"place: {{study: [postgresql://u:{SECRET}@h/x]}}")
    said = attack("run", "--config", tmp_path / "s.yaml", "--print_config")
    assert said.is_refusal_of("place.study")
    assert SECRET not in said.error


@pytest.mark.parametrize(
    ("address", "by"),
    [
        *((address, "flag") for address in ADDRESSES),
        *((ADDRESSES[-1], by) for by in ("one flag", "environment", "file")),
    ],
)
def test_a_traceback_holds_no_password(tmp_path: Path, address: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.yaml").write_text(f"place: {{study: '{address}'}}")
    if by == "environment":
        monkeypatch.setenv("RAYDD_STUDY", address)
    given = {
        "flag": ["--place.study", address],
        "one flag": [f"--place.study={address}"],
        "file": ["--config", tmp_path / "s.yaml"],
    }
    said = attack("watch", "--debug", "--place.home", tmp_path, *given.get(by, []))
    assert said.code == 2
    assert said.error.startswith("Traceback (most recent call last):")
    assert SECRET not in said.error
    assert "***" in said.error


def test_what_drivers_write_to_the_error_stream_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """By logging, by a warning, by a thread that dies, in pieces and in the ways that an address is quoted."""
    from raydd.commands import run

    key, password = f"k/{SECRET}", f"{SECRET}@x"

    def talk(options: object) -> int:
        logging.getLogger("driver").warning("cannot sign with %s", key)
        warnings.warn(f"dsn: host=h user=u, {password}", stacklevel=1)
        thread = threading.Thread(target=lambda: {}[quote(password)])
        thread.start()
        thread.join()
        print("connection to", f"http://u:{quote(password)}@h", "lost", file=sys.stderr)
        raise ValueError(f"{key} is refused") from RuntimeError(f"as {quote(key, safe='')}")

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://u:{quote(password)}@h")
    monkeypatch.setattr(run, "main", talk)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest has one of its own
    with warnings.catch_warnings(), monkeypatch.context() as patch:
        warnings.simplefilter("always")
        patch.setattr(warnings, "showwarning", _shown)
        patch.setattr(logging.getLogger(), "handlers", [])
        said = attack("run", "--debug")
    assert said.code == 1
    for part in ("cannot sign with ***", "user=u, ***", "KeyError: '***'", "http://u:***@h", "RuntimeError: as ***"):
        assert part in said.error, said.error
    assert said.error.endswith("raydd: unexpected ValueError: *** is refused.\n")
    assert SECRET not in said.error


def _shown(message, category, filename, lineno, file=None, line=None) -> None:
    """As Python shows a warning; pytest collects them instead."""
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def test_a_comparison_s_files_hold_no_password(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Ray and a database: a sweep that found something, and rows that nobody makes."""
    from raydd.compare import comparing, plan_table, tuned_rows
    from raydd.tuning.finals import Candidate
    from raydd.tuning.results import SweepResult

    def sweep(config: Config, *_: object, **__: object) -> SweepResult:
        assert SECRET in config.place.study
        best = Candidate(0, {"distill.image_lr": 0.2}, 30.0, (), math.nan)
        return SweepResult(config.sweep.name, config, ("r_mean",), {}, {}, {}, {}, (), best, (), {})

    monkeypatch.setenv("RAYDD_STUDY", ADDRESSES[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://u:{SECRET}@127.0.0.1:9")
    monkeypatch.setattr(preflight, "require_ready", lambda *_: None)
    monkeypatch.setattr(comparing, "cluster", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(tuned_rows, "run_sweep", sweep)
    monkeypatch.setattr(plan_table, "is_made", lambda *_: False)
    for name, value in {"require_room": None, "prepare": None, "make_rows": [], "write_comparison": []}.items():
        monkeypatch.setattr(comparing, name, lambda *_, value=value: value)
    given = flags(tiny_data, tmp_path / "home", compare_methods="lors", compare_pairs=5, compare_trials=2)
    at = given.index("--place.mlflow")
    del given[at : at + 2]
    said = attack("compare", *given)
    assert said.code == 0, said.error
    assert SECRET not in said.out + said.error
    files = {path.name: path for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert load(files["tiny-lors-6.yaml"]).distill.image_lr == 0.2
    assert leaks({SECRET}, {name: path.read_bytes() for name, path in files.items()}) == []


@pytest.mark.slow
def test_a_sweep_leaves_its_passwords_nowhere(tiny_data: Path, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Records in a bucket, trials in PostgreSQL, runs on an MLflow server: each asks for a secret of its own."""
    study, mlflow, key = (f"pl4nted/{name}@S3cret" for name in ("study", "mlflow", "key"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    for name, value in {"MLFLOW_WORKERS": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}.items():
        monkeypatch.setenv(name, value)  # the server is a small one
    forms = {form for secret in (study, mlflow, key) for form in (secret, quote(secret), quote(secret, safe=""))}
    forms |= {b64encode(f"u:{mlflow}".encode()).decode()}
    with contextlib.ExitStack() as stack:
        # A short path: where it is long, Ray's sessions lie elsewhere.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="r-")))
        postgres = Postgres(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postgres-"))), study)
        stack.callback(postgres.stop)
        port = stack.enter_context(door(stack.enter_context(mlflow_server(s3, folder)), "u", mlflow))
        home = folder / "home"
        home.mkdir(mode=0o755)  # as an older version made it
        places = {
            "RAYDD_STORE": f"s3://{BUCKET}/raydd",
            "RAYDD_STUDY": postgres.address,
            "MLFLOW_TRACKING_URI": f"http://u:{quote(mlflow, safe='')}@127.0.0.1:{port}",
        }
        (folder / "space.py").write_text(SPACE)
        own = Path(__file__).parents[1] / "tiny_encoders.py"  # by its path, which Ray's workers find
        given = flags(
            tiny_data,
            home,
            encoders_image=f"{own}:image",
            encoders_text=f"{own}:text",
            sweep_space=f"{folder}/space.py:small",
            sweep_trials=2,
            sweep_finalists=1,
            sweep_drawn_again=0,
            sweep_name="small",
            students_epochs=2,
        )
        at = given.index("--place.mlflow")
        del given[at : at + 2]
        lines = stack.enter_context(command_lines())
        compared = {"methods": "lors", "pairs": 5, "trials": 1, "sets": 1, "checks": 0}
        compared_flags = [part for name, value in compared.items() for part in (f"--compare.{name}", str(value))]
        for name, more in {"sweep": [], "report": [], "compare": compared_flags}.items():
            with (folder / "shown.log").open("ab") as log:
                command = [sys.executable, "-m", "raydd.cli", name, *given, *more]
                ended = subprocess.run(command, env={**os.environ, **places}, stdout=log, stderr=log, cwd=folder)
            assert ended.returncode == 0, (folder / "shown.log").read_text()
        assert any("raylet" in line for line in lines)
        assert leaks(forms, {line: line.encode() for line in lines}) == []
        rows = tables(postgres.address)
        assert any(name == "trials" for name, _ in rows)
        assert leaks(forms, {f"{name}: {row}": row.encode() for name, row in rows}) == []
        objects = s3.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [item["Key"] for page in objects for item in page["Contents"]]
        assert {name.split("/")[0] for name in keys} == {"raydd", "mlflow"}
        contents = {name: s3.client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in keys}
        assert leaks(forms, contents) == []
        files = [path for path in (*folder.rglob("*"), *postgres.data.rglob("*")) if path.is_file()]
        assert any(path.parts[-3].startswith("session_") for path in files)
        assert leaks(forms, {str(path): path.read_bytes() for path in files}) == []
        assert json.loads((home / "sweeps" / "small" / "result.json").read_text())["finalists"]
        assert (home / "comparisons" / "compare" / "tiny-lors-6.yaml").is_file()
        with sqlite3.connect(folder / "mlflow.db") as database:
            assert database.execute("select count(*) from params").fetchone()[0] > 0
        assert {each: stat.S_IMODE(each.stat().st_mode) for each in (home, home / "ray")} == {
            home: 0o700,
            home / "ray": 0o700,
        }


SPACE = """
FIRST = ({"distill.image_lr": 0.05},)


def small(trial):
    trial.suggest_float("distill.image_lr", 0.01, 0.1, log=True)
    return {}
"""


def leaks(secrets: set[str], contents: dict[str, bytes]) -> list[tuple[str, str]]:
    """Which secret stands in which content."""
    return [(name, each) for name, content in contents.items() for each in secrets if each.encode() in content]


@contextlib.contextmanager
def command_lines() -> Iterator[set[str]]:
    """What every user of this machine sees of its processes while the block runs."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # it has ended
                    seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def tables(address: str) -> list[tuple[str, str]]:
    """All rows of all tables of a database, with the table's name."""
    engine = sqlalchemy.create_engine(address)
    with engine.connect() as connection:
        return [
            (name, row)
            for name in sqlalchemy.inspect(engine).get_table_names()
            for row in connection.scalars(sqlalchemy.text(f'select each::text from "{name}" each'))
        ]
