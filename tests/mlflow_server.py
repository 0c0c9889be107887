"""MLflow's server for a team, as cluster/README.md starts it, and a door before it that asks for a password."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
from machines import free_port, wait_for
from s3_server import BUCKET, Server
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

README = (Path(__file__).parents[1] / "cluster/README.md").read_text(encoding="utf-8")


@contextlib.contextmanager
def mlflow_server(s3: Server, folder: Path) -> Iterator[str]:
    """The README's command, its words filled in; the bucket's credentials are the server's alone.

    Its database is `mlflow.db` in the folder, its artefacts lie under `mlflow` in the bucket.
    """
    found = re.search(r"<!-- mlflow -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found
    port = free_port()
    command = found[1].replace("5000", str(port))
    words = {"DATABASE": f"sqlite:///{folder}/mlflow.db", "ARTIFACTS": f"s3://{BUCKET}/mlflow", "HOST": "127.0.0.1"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", command],
            env={**os.environ, **words, "PATH": path, "MLFLOW_S3_ENDPOINT_URL": s3.address},
            start_new_session=True,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(port, 300)  # four workers import MLflow, beside other tests
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def door(server: str, user: str, password: str) -> Iterator[int]:
    """The port of a proxy on loopback that passes on what comes with basic auth, and refuses all else."""
    login = "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    @Request.application
    def passed_on(request: Request) -> Response:
        if request.headers.get("Authorization") != login:
            return Response("who are you?", 401, {"WWW-Authenticate": "Basic"})
        kept = {name: value for name, value in request.headers if name not in ("Authorization", "Host")}
        answer = requests.request(
            request.method, server + request.full_path, headers=kept, data=request.get_data(), timeout=60
        )
        return Response(answer.content, answer.status_code, content_type=answer.headers.get("Content-Type"))

    application: Callable[..., Any] = passed_on
    http = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield http.server_port
    finally:
        http.shutdown()
