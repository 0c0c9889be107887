"""An S3-compatible server (moto's) on loopback that counts what it is asked, and falls ill when it is told to."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from moto.moto_api._internal.models import moto_api_backend
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "a-key-of-the-test", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test"}


@dataclass
class Server:
    """The running server: requests so far, and what to answer instead of the truth."""

    port: int = 0
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and query of each."""
    received: int = 0
    sent: int = 0
    """Bytes of bodies."""
    illness: Callable[[str, str], str | None] = lambda method, path: None
    """Status line to answer instead, such as `503 Slow Down`."""

    @property
    def address(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        """boto3's client, to look behind the store's back."""
        return boto3.client("s3", endpoint_url=self.address, region_name="us-east-1")

    def count(self, method: str) -> int:
        """Requests of one method."""
        return sum(request[0] == method for request in self.requests)

    @property
    def listings(self) -> list[str]:
        """The queries of all requests that list objects."""
        return [query for method, _, query in self.requests if method == "GET" and "list-type" in query]

    @contextlib.contextmanager
    def ill(self, status: str, seconds: float = 0.0) -> Iterator[None]:
        """Answer everything with a status in the block, or only for its first seconds."""
        end = time.monotonic() + seconds if seconds else float("inf")
        self.illness = lambda method, path: status if time.monotonic() < end else None
        try:
            yield
        finally:
            self.illness = lambda method, path: None

    def serve(self, environ: dict[str, Any], start: Callable) -> Any:
        """The WSGI application."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path, environ["QUERY_STRING"]))
        self.received += int(environ.get("CONTENT_LENGTH") or 0)
        if status := self.illness(method, path):
            start(status, [("Content-Length", "0")])
            return [b""]
        parts = list(_APP(environ, start))
        self.sent += sum(map(len, parts))
        return parts


_APP: Any = DomainDispatcherApplication(create_backend_app)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A fresh server with a bucket, which AWS's variables of this process and its children point to."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = Server()
    http = make_server("127.0.0.1", 0, server.serve, threaded=True)
    server.port = http.server_port
    settings = {**KEYS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in {**settings, "AWS_ENDPOINT_URL": server.address}.items():
        monkeypatch.setenv(name, value)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.client.create_bucket(Bucket=BUCKET)
    server.requests.clear()
    yield server
    http.shutdown()
    thread.join()
    moto_api_backend.reset()  # moto keeps its buckets in this process
