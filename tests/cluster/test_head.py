"""The head's databases come back on a new head from their copies in the bucket."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from machines import free_port, wait_for
from s3_server import BUCKET, Server, s3  # noqa: F401

SCRIPT = Path(__file__).parents[2] / "cluster/head.py"
COPY = "raydd-head/studies.db"


def environment(home: Path, **more: str) -> Mapping[str, str]:
    own = {"RAYDD_HOME": str(home), "RAYDD_STORE": f"s3://{BUCKET}/raydd"}
    return {**os.environ, "MLFLOW_TRACKING_URI": "none", **own, **more}


def eventually(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


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


@pytest.mark.slow
def test_mlflow_is_served_on_loopback_unless_another_server_is_named(s3: Server, tmp_path: Path):  # noqa: F811
    elsewhere = environment(tmp_path / "one", MLFLOW_TRACKING_URI="http://mlflow:5000", RAYDD_STUDY="postgresql://db/x")
    assert subprocess.run([sys.executable, SCRIPT], env=elsewhere, timeout=60, check=True).returncode == 0
    port = free_port()
    here = environment(tmp_path / "two", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    with subprocess.Popen([sys.executable, SCRIPT], env=here, start_new_session=True) as process:
        try:
            wait_for(port, 120)
            again = subprocess.run([sys.executable, SCRIPT], env=here, timeout=60, check=True)
            assert again.returncode == 0  # one is enough
        finally:
            os.killpg(process.pid, 9)
