"""A Hugging Face hub on loopback: the few requests that pushing a data set and fetching it again take.

Small files come inside the commit, tensors, Parquet and tar by the LFS protocol, as the real hub asks for.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

TOKEN, USER = "hf_" + "t0ken" * 6, "someone"
LARGE = (".safetensors", ".parquet", ".tar", ".onnx")
LICENCES = ("apache-2.0", "cc-by-4.0", "gpl-2.0", "unknown", "other")
COMMIT = "0123456789abcdef" * 2 + "01234567"


@dataclass
class Hub:
    """What the hub has, and what it was asked."""

    port: int = 0
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Of each data set its files."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by their SHA-256."""
    requests: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to know."""
        return {"HF_ENDPOINT": f"http://127.0.0.1:{self.port}", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The hub, with one user and no data set."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body, path = self._body(), unquote(urlsplit(self.path).path)
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._refuse(401, "Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif path.endswith("/preupload/main"):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {file: "lfs" if file.endswith(LARGE) else "regular" for file in files}
            rows = [{"path": file, "uploadMode": mode, "shouldIgnore": False} for file, mode in modes.items()]
            self._answer({"files": rows})
        elif path.endswith(".git/info/lfs/objects/batch"):
            here = f"http://127.0.0.1:{self.hub.port}/objects"
            wanted = json.loads(body)["objects"]
            objects = [one | {"actions": {"upload": {"href": f"{here}/{one['oid']}"}}} for one in wanted]
            self._answer({"transfer": "basic", "objects": objects})
        elif path.endswith("/commit/main"):
            self._commit(path.split("/api/datasets/")[1].removesuffix("/commit/main"), body)
        else:
            self._refuse(404, f"no {path}")

    def do_PUT(self) -> None:
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.hub.objects[self.path.rpartition("/")[2]] = content
        self._answer({})

    def do_GET(self) -> None:
        self._body()
        kind, *parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if kind == "datasets" and "resolve" in parts:  # USER/NAME/resolve/REVISION/FILE
            content = self.hub.files["/".join(parts[:2])].get("/".join(parts[4:]))
            if content is None:
                self._answer({}, {"X-Error-Code": "EntryNotFound"}, 404)
            else:
                self._answer(content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT})
        elif "/".join(parts[1:3]) in self.hub.files:  # api: what there is
            name = "/".join(parts[1:3])
            files = self.hub.files[name]
            rows = [
                {"type": "file", "path": file, "size": len(files[file]), "oid": _oid(files[file])} for file in files
            ]
            about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            self._answer(rows if "tree" in parts else about)
        else:
            self._refuse(404, f"no {self.path}")

    do_HEAD = do_GET  # noqa: N815

    def _validate(self, card: str) -> None:
        """Refuse a card with a licence that is not in the hub's list, of which this one knows a part."""
        if yaml.safe_load(card.split("---\n")[1])["license"] in LICENCES:
            self._answer({"errors": [], "warnings": []})
        else:
            message = f'"license" must be one of [{", ".join(LICENCES)}]'
            self._answer({"errors": [{"message": message}], "warnings": []}, status=400)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        address = {"url": f"http://127.0.0.1:{self.hub.port}/datasets/{name}"}
        if asked["organization"] != USER:
            self._refuse(
                403, f"You don't have the rights to create a dataset under the namespace {asked['organization']}"
            )
        elif name in self.hub.files:
            self._answer(address | {"error": "You already created this dataset repo"}, status=409)
        else:
            self.hub.files[name] = {}
            self._answer(address)

    def _commit(self, name: str, body: bytes) -> None:
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                self.hub.files[name][value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                self.hub.files[name][value["path"]] = self.hub.objects[value["oid"]]
        address = f"http://127.0.0.1:{self.hub.port}/datasets/{name}/commit/{COMMIT}"
        self._answer({"commitUrl": address, "commitOid": COMMIT, "success": True})

    def _body(self) -> bytes:
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while length := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refuse(self, status: int, message: str) -> None:
        self._answer({"error": message}, {"X-Error-Message": message}, status)

    def _answer(self, content: Any, headers: dict[str, str] | None = None, status: int = 200) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
