"""A PostgreSQL server of a test's own on loopback, which can be away for a while."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from machines import free_port, wait_for

_PLACES = ("/usr/local/bin", *map(str, Path("/usr/lib/postgresql").glob("*/bin")))


class Postgres:
    """A server with one database, which asks for a password if it is given one."""

    def __init__(self, folder: Path, password: str = "") -> None:
        search = os.pathsep.join((os.environ["PATH"], *_PLACES))
        if not shutil.which("initdb", path=search):
            pytest.skip("needs PostgreSQL")
        pytest.importorskip("psycopg")
        initdb, self._server = (Path(str(shutil.which(name, path=search))).resolve() for name in ("initdb", "postgres"))
        self.data, self.port = folder / "data", free_port()
        self._login = f"raydd:{quote(password, safe='')}" if password else "raydd"
        # Which refuses to run as root.
        self._as = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        self.data.mkdir(parents=True)
        if self._as:
            os.chown(self.data, 65534, 65534)
            folder.chmod(0o711)
        auth, file = ["--auth=trust"], folder / "password"
        if password:
            file.write_text(password)
            auth = ["--auth=scram-sha-256", f"--pwfile={file}"]
        made = [*self._as, initdb, "-D", self.data, "-U", "raydd", *auth, "--no-sync"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd="/")
        file.unlink(missing_ok=True)
        self.start()

    @property
    def address(self) -> str:
        return f"postgresql+psycopg://{self._login}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = ["-p", str(self.port), "-h", "127.0.0.1", "-k", "", "-F"]
        with (self.data.parent / "postgres.log").open("a") as log:
            command = [*self._as, self._server, "-D", self.data, *options]
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
