"""The head's databases come back on a new head from their copies in the bucket."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from machines import free_port, wait_for
from s3_server import BUCKET, Server, s3  # noqa: F401
from scripts import loaded

from raydd.errors import PlaceError
from raydd.store import Store

SCRIPT = Path(__file__).parents[2] / "cluster/head.py"
COPY = "raydd-head/studies.db"
FILES = ["studies.db"]


@pytest.fixture(scope="module")
def head() -> Any:
    return loaded(SCRIPT)


@pytest.fixture
def copies(tmp_path: Path) -> Store:
    return Store(tmp_path / "store-head")


def a_home(folder: Path) -> Path:
    folder.mkdir()
    return folder


def note(home: Path, *numbers: int) -> None:
    """Write numbers into the study, as a sweep does its trials."""
    with contextlib.closing(sqlite3.connect(home / "studies.db")) as study:
        study.execute("CREATE TABLE IF NOT EXISTS trials (number)")
        study.executemany("INSERT INTO trials VALUES (?)", [(number,) for number in numbers])
        study.commit()


def noted(home: Path, name: str = "studies.db") -> list[int]:
    with contextlib.closing(sqlite3.connect(home / name)) as study:
        return [number for (number,) in study.execute("SELECT number FROM trials ORDER BY number")]


def environment(home: Path, **more: str) -> Mapping[str, str]:
    own = {"RAYDD_HOME": str(home), "RAYDD_STORE": f"s3://{BUCKET}/raydd"}
    return {**os.environ, "MLFLOW_TRACKING_URI": "none", **own, **more}


def said(folder: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / "studies.db")) as study:
        return [word for (word,) in study.execute("SELECT word FROM said")]


def eventually(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_head_that_was_replaced_copies_no_more_and_goes_on_from_the_newer_copy(
    head: Any, copies: Store, tmp_path: Path
):
    """As a Slurm job whose first node has the home of an older job."""
    one, two = a_home(tmp_path / "one"), a_home(tmp_path / "two")
    head.restore(one, copies, FILES)
    note(one, 1)
    assert not head.copy(one, copies, FILES)
    head.restore(two, copies, FILES)
    note(two, 2)
    assert not head.copy(two, copies, FILES)

    note(one, 10)
    assert "has taken over the copies there" in head.copy(one, copies, FILES)
    open_log = sqlite3.connect(one / "studies.db")
    open_log.execute("PRAGMA journal_mode=WAL")
    open_log.execute("INSERT INTO trials VALUES (11)")
    open_log.commit()  # lies in the log, which must not be read into the newer file
    head.restore(one, copies, FILES)
    assert noted(one) == [1, 2]
    assert noted(one, "studies.db.before") == [1, 10, 11]
    open_log.close()

    note(one, 3)
    assert not head.copy(one, copies, FILES)
    assert head.copy(two, copies, FILES)
    head.restore(one, copies, FILES)  # its own: what it has is never older
    assert noted(one) == [1, 2, 3]


def test_a_head_with_databases_but_without_a_name_keeps_them(head: Any, copies: Store, tmp_path: Path):
    one = a_home(tmp_path / "one")
    note(one, 1)
    copies.write("studies.db", b"older")  # by a version that noted no owner
    head.restore(one, copies, FILES)
    assert noted(one) == [1]
    assert not head.copy(one, copies, FILES)
    assert copies.content("studies.db").startswith(b"SQLite format 3")


FAULTS = [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left"), PlaceError("away")]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_keeps_a_copy_from_being_made_is_said_once_and_the_next_look_comes(
    head: Any,
    copies: Store,
    tmp_path: Path,
    fault: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    home, looks = a_home(tmp_path / "home"), iter(range(6))
    note(home, 1)
    copy_one = head.copy_one

    def copied(*given: Any) -> None:
        if look not in (2, 5):
            raise fault
        copy_one(*given)

    def sleep(_: float) -> None:
        nonlocal look
        look = next(looks, 6)
        if look == 4:
            assert noted(tmp_path / "store-head") == [1]
            note(home, 2)
        if look == 6:
            raise KeyboardInterrupt

    look = 0
    monkeypatch.setattr(head, "copy_one", copied)
    monkeypatch.setattr(head, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    monkeypatch.setattr(head, "LONGEST_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        head.keep(home, copies, FILES)
    assert noted(tmp_path / "store-head") == [1, 2]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2  # before the first copy, and before the second
    assert all(line.startswith(f"studies.db was not copied to {copies.root}: {fault}") for line in told)


def test_a_database_that_cannot_be_copied_keeps_no_other_one_from_it(head: Any, copies: Store, tmp_path: Path):
    home = a_home(tmp_path / "home")
    note(home, 1)
    (home / "studies.db").rename(home / "mlflow.db")
    (home / "studies.db").write_bytes(b"no database" * 1000)
    assert "studies.db was not copied" in head.copy(home, copies, ["studies.db", "mlflow.db"])
    assert noted(tmp_path / "store-head", "mlflow.db") == [1]


def test_mlflow_s_server_is_started_again(
    head: Any, copies: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    started: list[subprocess.Popen[bytes]] = []

    def serve(*_: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"]))
        return started[-1]

    def sleep(_: float) -> None:
        started[-1].wait(60)
        if len(started) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(head, "serve", serve)
    monkeypatch.setattr(head, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    monkeypatch.setattr(head, "LONGEST_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        head.keep(a_home(tmp_path / "home"), copies, ["mlflow.db"])
    assert capsys.readouterr().err.count("MLflow's server ended with status 7") == 2


@pytest.mark.parametrize(
    ("root", "kept"),
    [("s3://b/raydd-head?region=us-east-1", "s3://b/raydd-head/mlflow"), ("", "FOLDER/mlflow"), ("gs://b/h", "HOME")],
)
def test_mlflow_s_files_outlive_the_home_where_the_store_can_hold_them(
    head: Any, tmp_path: Path, root: str, kept: str, monkeypatch: pytest.MonkeyPatch
):
    given: list[list[str]] = []
    monkeypatch.setattr(head.subprocess, "Popen", given.append)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    head.serve(tmp_path / "home", Store(root or tmp_path / "shared-head"))
    expected = kept.replace("FOLDER", str(tmp_path / "shared-head")).replace("HOME", str(tmp_path / "home/mlartifacts"))
    assert given[0][given[0].index("--artifacts-destination") + 1] == expected


@pytest.mark.slow
def test_a_new_head_has_the_study_of_the_one_before(s3: Server, tmp_path: Path):  # noqa: F811
    (tmp_path / "one").mkdir()
    study = sqlite3.connect(tmp_path / "one/studies.db")
    study.execute("PRAGMA journal_mode=WAL")  # what is written lies in another file first
    study.execute("CREATE TABLE trials (number)")

    def copied() -> bytes:
        kept = s3.client.list_objects_v2(Bucket=BUCKET, Prefix=COPY)["KeyCount"]
        return s3.client.get_object(Bucket=BUCKET, Key=COPY)["Body"].read() if kept else b""

    def restored(home: Path) -> int:
        subprocess.run([sys.executable, SCRIPT, "restore"], env=environment(home), check=True)
        return sqlite3.connect(home / "studies.db").execute("SELECT count(*) FROM trials").fetchone()[0]

    with subprocess.Popen([sys.executable, SCRIPT], env=environment(tmp_path / "one")) as process:
        try:
            eventually(lambda: bool(copied()))
            before = copied()
            study.execute("INSERT INTO trials VALUES (7)")
            study.commit()
            eventually(lambda: copied() != before)
            assert restored(tmp_path / "two") == 1
            study.execute("DELETE FROM trials")
            study.commit()
            assert restored(tmp_path / "two") == 1  # one that is there is left as it is
        finally:
            process.kill()


@pytest.mark.slow
def test_a_command_is_run_between_restoring_and_a_last_copy(s3: Server, tmp_path: Path):  # noqa: F811
    write = (
        "import sqlite3; d = sqlite3.connect('{}/studies.db'); d.execute('CREATE TABLE t (x)'); raise SystemExit({})"
    )
    for home, status in (("one", 3), ("two", 1)):  # the second finds the first one's table
        code = write.format(tmp_path / home, 3)
        done = subprocess.run(
            [sys.executable, SCRIPT, "run", sys.executable, "-c", code], env=environment(tmp_path / home), check=False
        )
        assert done.returncode == status


SWEEP = """
import contextlib, signal, sqlite3, sys, time
from pathlib import Path

def note(word):
    with contextlib.closing(sqlite3.connect("{home}/studies.db")) as study:
        study.execute("CREATE TABLE IF NOT EXISTS said (word)")
        study.execute("INSERT INTO said VALUES (?)", (word,))
        study.commit()

told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
note("begun")
Path("begun").touch()
while not told:
    time.sleep(0.05)
time.sleep(1)  # long enough for another one
note(f"told {{len(told)}} time(s)")
sys.exit(3)
"""


@pytest.mark.slow
def test_a_slurm_job_that_reaches_its_limit_tells_the_sweep_alone_and_copies_what_it_kept(tmp_path: Path):
    """By stand-ins for Slurm's commands, for Ray, which dies of SIGTERM at once, and for the sweep."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "sweep.py").write_text(SWEEP.format(home=home))
    for name, script in {
        "ray": 'until [ "$1" = -- ]; do shift; done; shift; "$@"; exit',
        "scontrol": "echo one; echo two",
        "srun": 'shift; exec "$@"',
        "python": f'exec {sys.executable} "$@"',
        "raydd": f"exec {sys.executable} sweep.py",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "cluster").mkdir()
    for name in ("slurm.sh", "head.py"):
        shutil.copy(SCRIPT.parent / name, tmp_path / "cluster" / name)
    (tmp_path / "cluster/raydd.env").write_text(f"RAYDD_STORE={tmp_path}/store\nMLFLOW_TRACKING_URI=none\n")
    slurm = {"SLURM_JOB_NODELIST": "[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "16"}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "USER": "me", "PYTHONPATH": str(SCRIPT.parents[1]), **slurm}
    with subprocess.Popen(
        ["bash", "cluster/slurm.sh"], cwd=tmp_path, env=environment | {"RAYDD_HOME": str(home), "SLURM_JOB_ID": "1"}
    ) as job:
        try:
            eventually(lambda: (tmp_path / "begun").exists())
            job.terminate()
            assert job.wait(60) == 3
        finally:
            job.kill()
    assert said(tmp_path / "store-head") == ["begun", "told 1 time(s)"]


def test_a_store_that_cannot_be_is_named_in_a_sentence(tmp_path: Path):
    place = environment(tmp_path, RAYDD_STORE="/proc/nothing/raydd")
    done = subprocess.run([sys.executable, SCRIPT, "restore"], env=place, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/proc/nothing" in done.stderr
    assert done.stderr.endswith("Check cluster/raydd.env.\n")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_s_exit_status_survives_a_last_copy_that_fails(tmp_path: Path):
    home = a_home(tmp_path / "home")
    spoil = f"open('{home}/studies.db', 'wb').write(b'no database' * 1000); raise SystemExit(3)"
    done = subprocess.run(
        [sys.executable, SCRIPT, "run", sys.executable, "-c", spoil],
        env=environment(home, RAYDD_STORE=str(tmp_path / "store")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "file is not a database" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_signal_to_the_whole_process_group_reaches_the_command_once(tmp_path: Path):
    home = a_home(tmp_path / "home")
    command = [sys.executable, SCRIPT, "run", sys.executable, "-c", SWEEP.format(home=home)]
    place = environment(home, RAYDD_STORE=str(tmp_path / "store"))
    with subprocess.Popen(command, cwd=tmp_path, env=place, start_new_session=True) as process:
        eventually(lambda: (tmp_path / "begun").exists())
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 3
    assert said(tmp_path / "store-head") == ["begun", "told 1 time(s)"]


@pytest.mark.slow
def test_mlflow_is_served_on_loopback_unless_another_server_is_named(s3: Server, tmp_path: Path):  # noqa: F811
    elsewhere = environment(tmp_path / "one", MLFLOW_TRACKING_URI="http://mlflow:5000", RAYDD_STUDY="postgresql://db/x")
    assert subprocess.run([sys.executable, SCRIPT], env=elsewhere, timeout=60, check=True).returncode == 0
    port = free_port()
    here = environment(tmp_path / "two", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    with subprocess.Popen([sys.executable, SCRIPT], env=here, start_new_session=True) as process:
        try:
            wait_for(port, 300)
            again = subprocess.run([sys.executable, SCRIPT], env=here, timeout=60, check=True)
            assert again.returncode == 0  # one is enough
        finally:
            os.killpg(process.pid, 9)
