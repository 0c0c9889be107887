import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from raydd.cli import main


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_taken_port_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["board", "--port", str(port), "--place.home", str(tmp_path)]) == 2
    assert f"Port {port} cannot be used" in capsys.readouterr().err


def test_without_tracking_there_is_nothing_to_show(capsys: pytest.CaptureFixture[str]):
    assert main(["board", "--place.mlflow", "none"]) == 2
    assert "place.mlflow is none" in capsys.readouterr().err


def test_a_server_of_its_own_shows_its_runs_itself(capsys: pytest.CaptureFixture[str]):
    assert main(["board", "--place.mlflow", "http://127.0.0.1:5999"]) == 0
    assert "http://127.0.0.1:5999" in capsys.readouterr().out


def test_a_database_that_is_away_is_named_before_a_server_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--port", str(free_port()), "--place.home", str(tmp_path)]
    assert main(["board", *arguments, "--place.mlflow", "postgresql+psycopg://me:pl4nted@127.0.0.1:9/x"]) == 2
    said = capsys.readouterr().err
    assert "MLflow at postgresql+psycopg://me:***@127.0.0.1:9/x does not answer" in said
    assert "pl4nted" not in said
    assert not (tmp_path / "board.log").exists()


@pytest.mark.slow
def test_an_address_that_mlflow_refuses_ends_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--port", str(free_port()), "--place.home", str(tmp_path), "--place.mlflow", "what://me:pl4nted@ever"]
    assert main(["board", *arguments]) == 2
    said, log = capsys.readouterr().err, (tmp_path / "board.log").read_text()
    assert "MLflow's server did not start" in said
    assert "what://me:***@ever" in said
    assert "what://me:***@ever" in log
    assert "pl4nted" not in said + log


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_pages_are_served_on_loopback_until_the_end_and_nothing_stays(end: signal.Signals, tmp_path: Path):
    port = free_port()
    command = [sys.executable, "-m", "raydd.cli", "board", "--port", str(port), "--place.home", str(tmp_path)]
    board = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "COLUMNS": "300",
            "http_proxy": "http://127.0.0.1:9",  # by which this machine's own pages cannot be reached
            "MLFLOW_BACKEND_STORE_URI": "sqlite:////proc/none.db",
        },  # another program's
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    )
    with board, contextlib.ExitStack() as left:
        left.callback(board.terminate)  # if an assertion fails: else the block would wait for ever
        assert board.stdout
        assert "Nothing was tracked yet" in board.stdout.readline()
        assert board.stdout.readline() == "starting MLflow's server\n"
        said = next(line for line in board.stdout if not line.startswith("starting"))
        assert f"http://127.0.0.1:{port}" in said
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            assert page.status == 200
        servers = psutil.Process(board.pid).children(recursive=True)
        listening = [
            connection.laddr.ip
            for server in servers
            for connection in server.net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert set(listening) == {"127.0.0.1"}
        board.send_signal(end)
        assert board.wait(60) == (0 if end == signal.SIGINT else 143)
    _, alive = psutil.wait_procs(servers, timeout=10)
    assert not alive
    assert (tmp_path / "mlflow.db").exists()
