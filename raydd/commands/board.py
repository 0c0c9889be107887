"""Open MLflow's pages on the tracked runs: starts a server for this machine only, until Ctrl-C.

The pages open at the sweep `sweep.name`, by default the latest; remove the filter there to see all runs.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from raydd import cli
from raydd.errors import ConfigError, RayddError
from raydd.secrets_hidden import hidden, hide_password
from raydd.terminal.console import open_console

HOST = "127.0.0.1"
START_SECONDS = 120  # the first start creates the database, which takes long on a busy machine
STOP_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Open MLflow's pages."""

    defaults: ClassVar[Mapping[str, Any]] = {"sweep.name": "latest"}
    port: int = 5000
    """Port on 127.0.0.1 [5000]."""


def main(options: Options) -> int:
    """Serve the pages and print their address."""
    from raydd.place import home, make_home, mlflow_address, sqlite_file
    from raydd.terminal.busy import busy_on
    from raydd.tracking.connection import answering, keep_view, require_database

    place, console = options.settings.place, open_console()
    address, home_folder = mlflow_address(place), home(place)
    if address == "none":
        raise ConfigError("place.mlflow is none, so there is nothing to show. Give the address used for tracking.")
    if address.startswith(("http://", "https://")):
        console.print(f"These runs are on an MLflow server. Its pages: {hide_password(address)}", soft_wrap=True)
        return 0
    _require_free_port(options.port)
    with answering(address):
        require_database(address)
    database = sqlite_file(address)
    if database and not database.exists():
        console.print(f"Nothing was tracked yet: {database} is new and empty. `raydd sweep` fills it.", soft_wrap=True)
        database.parent.mkdir(parents=True, exist_ok=True)
    make_home(place)
    _go_past_proxies()
    with contextlib.ExitStack() as stack:
        with busy_on(console, "starting MLflow's server"):
            server = stack.enter_context(
                _run_server(address, options.port, artifacts=home_folder / "mlartifacts", log=home_folder / "board.log")
            )
        page = keep_view(f"http://{HOST}:{options.port}", _sweep_name(options))
        console.print(f"MLflow's pages: http://{HOST}:{options.port}{page} (Ctrl-C closes them)", soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
            raise RayddError(f"MLflow's server ended unexpectedly. See {home_folder / 'board.log'}.")
    return 0


def _sweep_name(options: Options) -> str:
    """Return the name of the sweep to open at; empty if there is no sweep yet."""
    from raydd.place import study_address
    from raydd.tuning.study import sweep_named

    with contextlib.suppress(ConfigError):
        return sweep_named(options.settings.sweep.name, study_address(options.settings.place))
    return ""


def _go_past_proxies() -> None:
    """Let this process ask its own server directly, whatever proxy the environment names."""
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = ",".join(filter(None, (exempt, HOST)))


def _require_free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port just closed is free
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"Port {port} cannot be used ({error}). Give another port with --port.") from error


@contextlib.contextmanager
def _run_server(address: str, port: int, *, artifacts: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run MLflow's server in its own process group, wait until it answers, and end the whole group with the block."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", str(artifacts)]
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else eight more processes, for features raydd does not use
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": address,  # not as an argument: all users of the machine can see command lines
    }
    server = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    log_writer = threading.Thread(target=_write_log, args=(server.stdout, log), daemon=True)
    log_writer.start()
    previous_handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if not _wait_until_ready(server, port):
            log_writer.join(STOP_SECONDS)
            last_line = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
            raise RayddError(f"MLflow's server did not start: {last_line}. See {log}.")
        yield server
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
        _stop_server(server)
        log_writer.join(STOP_SECONDS)


def _write_log(lines: Iterable[str], log: Path) -> None:
    """Write the server's output to the log without the address's password, which MLflow repeats in some errors."""
    with log.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(hidden(line))
            file.flush()


def _wait_until_ready(server: subprocess.Popen[str], port: int) -> bool:
    """Wait until the server answers. Returns False if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return False
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5).close()
            return True
        time.sleep(0.2)
    return False


def _stop_server(server: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
        os.killpg(server.pid, signal.SIGKILL)
