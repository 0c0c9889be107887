"""The watch for a spot notice, against metadata of the test's own, where it sees no processes but its own."""

import http.server
import os
import subprocess
import threading
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster/spot.sh"
TRIAL = "(exec -a ray::trial bash -c 'trap \"echo told; exit\" TERM; while :; do sleep 0.1; done') &"


class Metadata(http.server.BaseHTTPRequestHandler):
    """Amazon's: a token for a PUT, a notice for who has it, the first time not yet."""

    asked = 0

    def do_PUT(self):
        self._answer(200, b"token")

    def do_GET(self):
        assert self.headers["X-aws-ec2-metadata-token"] == "token"
        Metadata.asked += 1
        self._answer(404 if Metadata.asked == 1 else 200, b'{"action": "terminate"}')

    def _answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for processes of its own")
def test_trials_are_told_when_the_machine_is_taken_back(tmp_path: Path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\necho "ray $1 $2 $3"\n')
    ray.chmod(0o755)
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", f"{TRIAL} bash {SCRIPT}; wait"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAYDD_METADATA": f"http://127.0.0.1:{server.server_port}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    server.shutdown()
    assert Metadata.asked == 2
    assert done.stdout.splitlines()[-2:] == ["ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION", "told"]
