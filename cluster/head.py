"""What the head keeps by default: the study and MLflow in SQLite, with copies in the bucket, and MLflow's server.

`head.py restore` fetches the copies onto a new head, which owns them from then on: a head of before writes no more of
them, and one that comes back takes them in the place of its older files. `head.py` serves MLflow at
MLFLOW_TRACKING_URI, if that is on 127.0.0.1, and copies what has changed: as soon as nothing is written any more, and
once a minute meanwhile. `head.py run COMMAND` does all of it around a command, for places whose head lives no longer
than that. What raydd.env places elsewhere (RAYDD_STUDY, MLFLOW_TRACKING_URI) is left to who keeps it.
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
        status = run(home, sys.argv[2:])
        if why := copy(home, copies, files):
            print(why, file=sys.stderr, flush=True)
        sys.exit(status)
    with only_one(home) as first:
        if first and files:
            keep(home, copies, files)


def keep(home: Path, copies: Store, files: list[str]) -> None:
    """Serve and copy, whatever fails meanwhile, until the machine goes."""
    server, began = serve(home, copies) if "mlflow.db" in files else None, time.monotonic()
    copied, before, at, failing = state(home, []), state(home, files), 0.0, False
    try:
        while True:
            if server and server.poll() is not None and time.monotonic() - began > LONGEST_SECONDS:
                print(
                    f"MLflow's server ended with {server.returncode}, and is started again.",
                    file=sys.stderr,
                    flush=True,
                )
                server, began = serve(home, copies), time.monotonic()
            now = state(home, files)
            if now != copied and (now == before or time.monotonic() - at > LONGEST_SECONDS):
                why, at = copy(home, copies, files), time.monotonic()
                if why and not failing:
                    print(f"{why} It is tried until it can be.", file=sys.stderr, flush=True)
                copied, failing = copied if why else now, bool(why)
            before = now
            time.sleep(LOOK_SECONDS)
    finally:
        if server:
            server.terminate()


def run(home: Path, command: list[str]) -> int:
    """Serve and copy while a command runs, which is told when this process is to end; gives its exit status.

    The command has a session of its own, so that a signal to the whole process group reaches it once, from here. Who
    wants to tell this process alone finds its number in `run.pid` in the home.
    """
    process, told = None, False

    def tell(*_: object) -> None:
        nonlocal told
        told = True
        if process:
            process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)  # for good: the last copy is not interrupted either
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
    """Fetch what this head lacks, or has from before another one took over, and make the copies this head's."""
    mine = name_of(home)
    for name in files:
        there, owner = home / name, owner_of(copies, name)
        if copies.exists(name) and (not there.exists() or owner not in ("", mine)):
            content = copies.content(name)
            part = home / f"{name}.part"
            part.write_bytes(content)
            for end in ("-wal", "-shm", ""):  # SQLite would read the old file's log into the new file
                if (old := home / f"{name}{end}").exists():
                    old.replace(home / f"{name}.before{end}")
            part.replace(there)
            print(f"{name}: {len(content)} bytes from {copies.root}", flush=True)
        if owner != mine:
            copies.write(f"{name}.owner", mine.encode())


def name_of(home: Path) -> str:
    """This head's name, which no other home has."""
    file = home / "head.name"
    if not file.exists():
        file.write_text(f"{socket.gethostname()} {secrets.token_hex(8)}", encoding="utf-8")
    return file.read_text(encoding="utf-8")


def owner_of(copies: Store, name: str) -> str:
    """The name of the head that took a copy over last; empty if none did."""
    try:
        return copies.content(f"{name}.owner").decode()
    except RecordError:
        return ""


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
    """MLflow's server, on loopback: its files go beside the copies in S3 or in a folder, else to the home."""
    outlives = copies.root.partition("?")[0] if copies.root.startswith("s3://") else copies.folder
    artifacts = f"{outlives}/mlflow" if outlives else str(home / "mlartifacts")
    port = os.environ["MLFLOW_TRACKING_URI"].removeprefix(HERE).rstrip("/")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port]
    return subprocess.Popen(
        [*command, "--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", artifacts]
    )


def state(home: Path, files: list[str]) -> list[tuple[str, int, int]]:
    """What changes when the databases do: names, sizes and times, also of what SQLite has yet to merge."""
    found = []
    for path in [home / f"{name}{end}" for name in files for end in ("", "-wal")]:
        with contextlib.suppress(FileNotFoundError):  # SQLite deletes its log whenever it has merged it
            at = path.stat()
            found.append((path.name, at.st_size, at.st_mtime_ns))
    return found


def copy(home: Path, copies: Store, files: list[str]) -> str:
    """Copy the databases, each as it is at one moment; says why one could not be, and is empty if all were."""
    why = []
    for name in files:
        try:
            copy_one(home, copies, name)
        except (OSError, sqlite3.Error, RayddError) as error:  # the disk is full, the bucket away: the next look comes
            why.append(f"{name} was not copied to {copies.root}: {error}")
    return " ".join(why)


def copy_one(home: Path, copies: Store, name: str) -> None:
    """Copy one database, if it is there.

    Raises:
        PlaceError: the copies are another head's by now.
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
    main()
