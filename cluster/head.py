"""What the head keeps by default: the study and MLflow in SQLite, with copies in the bucket, and MLflow's server.

`head.py restore` fetches the copies onto a new head. `head.py` serves MLflow at MLFLOW_TRACKING_URI, if that is on
127.0.0.1, and copies what has changed: as soon as nothing is written any more, and once a minute meanwhile.
`head.py run COMMAND` does all of it around a command, for places whose head lives no longer than that. What raydd.env
places elsewhere (RAYDD_STUDY, MLFLOW_TRACKING_URI) is left to who keeps it.
"""

import contextlib
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from raydd.config import PlaceConfig
from raydd.errors import RayddError
from raydd.place import make_home, open_store
from raydd.store import Store

HERE = "http://127.0.0.1:"
LOOK_SECONDS, LONGEST_SECONDS = 2.0, 60.0  # between two looks, and between two copies of what is written all the time


def main() -> None:
    """Restore, or serve and copy until the machine goes."""
    home, copies = make_home(PlaceConfig()), Store(beside(open_store(PlaceConfig()).root))
    files = kept_here()
    if sys.argv[1:] == ["restore"]:
        restore(home, copies, files)
        return
    if sys.argv[1:2] == ["run"]:
        restore(home, copies, files)
        status = run(sys.argv[2:])
        copy(home, copies, files)
        sys.exit(status)
    with only_one(home) as first, contextlib.ExitStack() as open_until_the_end:
        if not first or not files:
            return
        if "mlflow.db" in files:
            open_until_the_end.callback(serve(home, copies).terminate)
        copied, before, at = state(home, []), state(home, files), 0.0
        while True:
            now = state(home, files)
            if now != copied and (now == before or time.monotonic() - at > LONGEST_SECONDS):
                copied, at = now if copy(home, copies, files) else copied, time.monotonic()
            before = now
            time.sleep(LOOK_SECONDS)


def run(command: list[str]) -> int:
    """Serve and copy while a command runs, which is told when this process is to end; gives its exit status."""
    with subprocess.Popen([sys.executable, __file__], start_new_session=True) as keeper:
        try:
            with subprocess.Popen(command) as process:
                signal.signal(signal.SIGTERM, lambda *_: process.terminate())
                return process.wait()
        finally:
            os.killpg(keeper.pid, signal.SIGKILL)  # MLflow's server too; what it wrote is in the database


def beside(root: str) -> str:
    """The folder or prefix of the copies: the store's with `-head`."""
    address, mark, options = root.partition("?")
    return f"{address.rstrip('/')}-head{mark}{options}"


def kept_here() -> list[str]:
    """The databases in the home that nobody else keeps."""
    study, server = os.environ.get("RAYDD_STUDY"), os.environ.get("MLFLOW_TRACKING_URI", "")
    return [*([] if study else ["studies.db"]), *(["mlflow.db"] if server.startswith(HERE) else [])]


def restore(home: Path, copies: Store, files: list[str]) -> None:
    """Fetch what this head lacks."""
    for name in files:
        if not (home / name).exists() and copies.exists(name):
            content = copies.content(name)
            part = home / f"{name}.part"
            part.write_bytes(content)
            part.replace(home / name)
            print(f"{name}: {len(content)} bytes from {copies.root}", flush=True)


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[bool]:
    """Whether this is the only such process: `ray up` gives the same command again."""
    with (home / "head.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def serve(home: Path, copies: Store) -> subprocess.Popen[bytes]:
    """MLflow's server, on loopback: its files go to the bucket where that is S3, else to the home."""
    artifacts = f"{copies.root}/mlflow" if copies.root.startswith("s3://") else str(home / "mlartifacts")
    port = os.environ["MLFLOW_TRACKING_URI"].removeprefix(HERE).rstrip("/")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port]
    return subprocess.Popen(
        [*command, "--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", artifacts]
    )


def state(home: Path, files: list[str]) -> list[tuple[str, int, int]]:
    """What changes when the databases do: names, sizes and times, also of what SQLite has yet to merge."""
    parts = [path for name in files for path in (home / name, home / f"{name}-wal") if path.exists()]
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in parts]


def copy(home: Path, copies: Store, files: list[str]) -> bool:
    """Copy the databases, each as it is at one moment; whether that could be done."""
    for name in files:
        if not (home / name).exists():
            continue
        with tempfile.NamedTemporaryFile(dir=home, suffix=".part") as part:
            with (
                contextlib.closing(sqlite3.connect(home / name, timeout=60)) as database,
                contextlib.closing(sqlite3.connect(part.name)) as whole,
            ):
                database.backup(whole)
            content = Path(part.name).read_bytes()
        try:
            copies.write(name, content)
        except RayddError as error:  # the bucket is away; the next look comes
            print(f"{name} was not copied: {error}", flush=True)
            return False
    return True


if __name__ == "__main__":
    main()
