"""Keeps the study and MLflow's database on the head in SQLite, copies both to the bucket, and runs MLflow's server.

- `head.py restore` fetches the copies onto a new head. The new head owns the copies from then on: an older head stops
  writing them, and if it comes back later, it replaces its own older files by the copies.
- `head.py` serves MLflow at MLFLOW_TRACKING_URI, if that is on 127.0.0.1. It copies a changed database as soon as
  writing pauses, and once a minute while writing goes on.
- `head.py run COMMAND` does both around a command, for places whose head lives only as long as the command.

If raydd.env names another place for the study or MLflow (RAYDD_STUDY, MLFLOW_TRACKING_URI), its database is not kept
here.
"""

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from raydd.config import PlaceConfig
from raydd.errors import PlaceError, RayddError, RecordError
from raydd.place import make_home, open_store
from raydd.secrets_hidden import hidden
from raydd.store import Store

HERE = "http://127.0.0.1:"
LOOK_SECONDS, LONGEST_SECONDS = 2.0, 60.0  # between two checks; between two copies while writing goes on


def main() -> None:
    """Restore the copies, run a command, or serve and copy until the machine ends."""
    home, copies = make_home(PlaceConfig()), Store(beside(open_store(PlaceConfig()).root))
    files = kept_here()
    if sys.argv[1:] == ["restore"]:
        restore(home, copies, files)
        return
    if sys.argv[1:2] == ["run"]:
        restore(home, copies, files)
        status = run(home, sys.argv[2:])
        if why := copy(home, copies, files):
            print(why, file=sys.stderr, flush=True)
        sys.exit(status)
    with only_one(home) as first:
        if first and files:
            keep(home, copies, files)


def keep(home: Path, copies: Store, files: list[str]) -> None:
    """Serve MLflow and copy the databases until the machine ends, regardless of errors."""
    server, began = serve(home, copies) if "mlflow.db" in files else None, time.monotonic()
    copied, before, at, failing = state(home, []), state(home, files), 0.0, False
    try:
        while True:
            if server and server.poll() is not None and time.monotonic() - began > LONGEST_SECONDS:
                print(
                    f"MLflow's server ended with status {server.returncode}. It is started again.",
                    file=sys.stderr,
                    flush=True,
                )
                server, began = serve(home, copies), time.monotonic()
            now = state(home, files)
            if now != copied and (now == before or time.monotonic() - at > LONGEST_SECONDS):
                why, at = copy(home, copies, files), time.monotonic()
                if why and not failing:
                    print(f"{why} Copying is retried until it succeeds.", file=sys.stderr, flush=True)
                copied, failing = copied if why else now, bool(why)
            before = now
            time.sleep(LOOK_SECONDS)
    finally:
        if server:
            server.terminate()


def run(home: Path, command: list[str]) -> int:
    """Serve MLflow and copy the databases while a command runs, and return the command's exit status.

    If this process is asked to end, it asks the command to end. The command has its own session, so that a signal to
    the whole process group reaches it only once, from here. The file `run.pid` in the home has the number of this
    process, for signals to this process only.
    """
    process, told = None, False

    def tell(*_: object) -> None:
        nonlocal told
        told = True
        if process:
            process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)  # not restored later, so that the last copy is not interrupted either
    note = home / "run.pid"
    note.write_text(str(os.getpid()), encoding="utf-8")
    with subprocess.Popen([sys.executable, __file__], start_new_session=True) as keeper:
        try:
            process = subprocess.Popen(command, start_new_session=True)
            if told:
                tell()
            return process.wait()
        finally:
            note.unlink(missing_ok=True)
            os.killpg(keeper.pid, signal.SIGKILL)  # ends MLflow's server too; its data is in the database


def beside(root: str) -> str:
    """Return the folder or prefix of the copies: that of the store with `-head` appended."""
    address, mark, options = root.partition("?")
    return f"{address.rstrip('/')}-head{mark}{options}"


def kept_here() -> list[str]:
    """Return the names of the databases that are kept in the home, and not on a server of the user's own."""
    study, server = os.environ.get("RAYDD_STUDY"), os.environ.get("MLFLOW_TRACKING_URI", "")
    return [*([] if study else ["studies.db"]), *(["mlflow.db"] if server.startswith(HERE) else [])]


def restore(home: Path, copies: Store, files: list[str]) -> None:
    """Fetch databases that this head lacks or another head has taken over, and make this head the copies' owner."""
    mine = name_of(home)
    for name in files:
        there, owner = home / name, owner_of(copies, name)
        if copies.exists(name) and (not there.exists() or owner not in ("", mine)):
            content = copies.content(name)
            part = home / f"{name}.part"
            part.write_bytes(content)
            for end in ("-wal", "-shm", ""):  # or SQLite would apply the old file's log to the new file
                if (old := home / f"{name}{end}").exists():
                    old.replace(home / f"{name}.before{end}")
            part.replace(there)
            print(f"{name}: {len(content)} bytes from {copies.root}", flush=True)
        if owner != mine:
            copies.write(f"{name}.owner", mine.encode())


def name_of(home: Path) -> str:
    """Return this head's name, which is unique to its home."""
    file = home / "head.name"
    if not file.exists():
        file.write_text(f"{socket.gethostname()} {secrets.token_hex(8)}", encoding="utf-8")
    return file.read_text(encoding="utf-8")


def owner_of(copies: Store, name: str) -> str:
    """Return the name of the head that owns a copy; empty if none does."""
    try:
        return copies.content(f"{name}.owner").decode()
    except RecordError:
        return ""


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[bool]:
    """Yield whether this is the only such process in the home, since a second `ray up` starts the command again."""
    with (home / "head.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def serve(home: Path, copies: Store) -> subprocess.Popen[bytes]:
    """Start MLflow's server on loopback. Its files go next to the copies if these are in S3 or a folder, else home."""
    outlives = copies.root.partition("?")[0] if copies.root.startswith("s3://") else copies.folder
    artifacts = f"{outlives}/mlflow" if outlives else str(home / "mlartifacts")
    port = os.environ["MLFLOW_TRACKING_URI"].removeprefix(HERE).rstrip("/")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port]
    return subprocess.Popen(
        [*command, "--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", artifacts]
    )


def state(home: Path, files: list[str]) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of the databases and of SQLite's logs, which change whenever the databases do."""
    found = []
    for path in [home / f"{name}{end}" for name in files for end in ("", "-wal")]:
        with contextlib.suppress(FileNotFoundError):  # SQLite deletes its log after merging it
            at = path.stat()
            found.append((path.name, at.st_size, at.st_mtime_ns))
    return found


def copy(home: Path, copies: Store, files: list[str]) -> str:
    """Copy a consistent snapshot of each database. Return why one could not be copied; empty if all were copied."""
    why = []
    for name in files:
        try:
            copy_one(home, copies, name)
        except (OSError, sqlite3.Error, RayddError) as error:  # such as a full disk or no bucket; the caller retries
            why.append(f"{name} was not copied to {copies.root}: {error}")
    return " ".join(why)


def copy_one(home: Path, copies: Store, name: str) -> None:
    """Copy one database, if it exists.

    Raises:
        PlaceError: another head has taken over the copies.
    """
    if not (home / name).exists():
        return
    with tempfile.NamedTemporaryFile(dir=home, suffix=".part") as part:
        with (
            contextlib.closing(sqlite3.connect(home / name, timeout=60)) as database,
            contextlib.closing(sqlite3.connect(part.name)) as whole,
        ):
            database.backup(whole)
        content = Path(part.name).read_bytes()
    if (owner := owner_of(copies, name)) not in ("", name_of(home)):
        raise PlaceError(
            f"The head on {owner.split()[0]} has taken over the copies there. End one of the two, or give each its own "
            "RAYDD_STORE."
        )
    copies.write(name, content)


if __name__ == "__main__":
    try:
        main()
    except (RayddError, OSError) as error:
        sys.exit(f"head.py: {hidden(str(error)).rstrip('.')}. Check cluster/raydd.env.")
