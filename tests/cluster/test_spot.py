"""The watch for a spot notice, against metadata of the test's own, where it sees no processes but its own."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster/spot.py"
TRIAL = "(exec -a ray::trial bash -c 'trap \"sleep 1; echo told; exit\" TERM; while :; do sleep 0.1; done') &"


class Metadata(http.server.BaseHTTPRequestHandler):
    """What both clouds have: the first time there is no notice yet, and other paths are not there."""

    server: Any
    path_of_notice: str
    header: tuple[str, str]
    first: tuple[int, bytes]
    notice: bytes

    def do_GET(self):
        if self.path != self.path_of_notice:
            self._answer(404, b"")
            return
        name, value = self.header
        assert self.headers[name] == value
        self.server.asked += 1
        self._answer(*(self.first if self.server.asked == 1 else (200, self.notice)))

    def do_PUT(self):
        self._answer(404, b"")

    def _answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Broken(Metadata):
    """Google's, where the first answers are no HTTP, and then no text."""

    path_of_notice = "/computeMetadata/v1/instance/preempted"
    header = ("Metadata-Flavor", "Google")
    first, notice = (200, b"\xff"), b"TRUE"

    def do_PUT(self):
        self.wfile.write(b"out of order\r\n")
        self.close_connection = True


class Amazon(Metadata):
    path_of_notice = "/latest/meta-data/spot/instance-action"
    header = ("X-aws-ec2-metadata-token", "token")
    first, notice = (404, b""), b'{"action": "terminate"}'

    def do_PUT(self):
        self._answer(200, b"token")


class Google(Metadata):
    path_of_notice = "/computeMetadata/v1/instance/preempted"
    header = ("Metadata-Flavor", "Google")
    first, notice = (200, b"FALSE"), b"TRUE"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for processes of its own")
@pytest.mark.parametrize("cloud", [Amazon, Google, Broken])
def test_trials_are_told_when_the_machine_is_taken_back(tmp_path: Path, cloud: type[Metadata]):
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), cloud)
    server.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\necho "ray $1 $2 $3"\n')
    ray.chmod(0o755)
    command = f"{sys.executable} {SCRIPT}"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", f"{TRIAL} {command}; echo left"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAYDD_METADATA": f"http://127.0.0.1:{server.server_port}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    server.shutdown()
    assert server.asked == 2
    # It leaves after the trial: a pod's preStop hook stops Ray then.
    assert done.stdout.splitlines()[-3:] == ["ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION", "told", "left"]
