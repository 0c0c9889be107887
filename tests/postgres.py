"""A PostgreSQL server of a test's own on loopback, which can be away for a while."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import free_port, wait_for

_PLACES = ("/usr/local/bin", *map(str, Path("/usr/lib/postgresql").glob("*/bin")))


class Postgres:
    """A server with one database."""

    def __init__(self, folder: Path) -> None:
        search = os.pathsep.join((os.environ["PATH"], *_PLACES))
        if not shutil.which("initdb", path=search):
            pytest.skip("needs PostgreSQL")
        pytest.importorskip("psycopg")
        initdb, self._server = (Path(str(shutil.which(name, path=search))).resolve() for name in ("initdb", "postgres"))
        self._data, self.port = folder / "data", free_port()
        # Which refuses to run as root.
        self._as = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        self._data.mkdir(parents=True)
        if self._as:
            os.chown(self._data, 65534, 65534)
            folder.chmod(0o711)
        made = [*self._as, initdb, "-D", self._data, "-U", "raydd", "--auth=trust", "--no-sync"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd="/")
        self.start()

    @property
    def address(self) -> str:
        return f"postgresql+psycopg://raydd@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = ["-p", str(self.port), "-h", "127.0.0.1", "-k", "", "-F"]
        with (self._data.parent / "postgres.log").open("a") as log:
            command = [*self._as, self._server, "-D", self._data, *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        wait_for(self.port)

    def stop(self) -> None:
        """End at once, with all connections."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()
