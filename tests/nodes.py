"""A Ray cluster of real `ray start` processes on this machine, whose nodes can be lost one by one."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import psutil
from machines import free_port, wait_for

_STORE = "--object-store-memory=80000000"


class Nodes:
    """A head without CPUs, and nodes."""

    def __init__(self, folder: Path, *head: str) -> None:
        """Start the head, with options of `ray start` of its own."""
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._folder = Path(f"/tmp/ray-{secrets.token_hex(4)}")  # short: Ray puts sockets below it
        self.environment = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # several nodes; their ports are open, so a token guards them
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # a head that is gone is given up; default 60
            "RAY_health_check_failure_threshold": "5",  # Ray's own, which raydd changes where there is one node
        }
        self._log = (folder / "nodes.log").open("a")
        self._started: list[psutil.Process] = []
        self.head = self._start(["--head", f"--port={self.port}", "--include-dashboard=false", "--num-cpus=0", *head])
        wait_for(self.port, 60)

    def add(self, cpus: int = 1) -> psutil.Process:
        """Start a node."""
        return self._start([f"--address={self.address}", f"--num-cpus={cpus}"])

    def wait(self, cpus: int, seconds: float = 120) -> None:
        """Wait until the cluster has so many CPUs."""
        code = f"import ray; ray.init({self.address!r}, logging_level=50); print(ray.cluster_resources())"
        end = time.monotonic() + seconds
        while True:
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=os.environ | self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if f"'CPU': {float(cpus)}" in done.stdout:
                return
            assert time.monotonic() < end, done.stdout + done.stderr
            time.sleep(0.5)

    def lose(self, node: psutil.Process) -> None:
        """Kill all processes of a node at once, as a lost machine does."""
        for process in self._all_of(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def trials(self, node: psutil.Process) -> list[psutil.Process]:
        """The processes of a node that run trials, by what Tune makes of a class with resources."""
        return self.processes(node, "ray::ResourceTrainable")

    def processes(self, node: psutil.Process, name: str) -> list[psutil.Process]:
        """The processes of a node whose command line holds a name."""
        return [process for process in self._all_of(node) if name in name_of(process)]

    def close(self) -> None:
        """Kill all that is left."""
        for node in self._started:
            self.lose(node)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, options: list[str]) -> psutil.Process:
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            "--node-ip-address=127.0.0.1",
            _STORE,
        ]
        if "--head" in options:
            options = [*options, f"--temp-dir={self._folder}"]
        process = psutil.Popen(
            [*command, *options], env=os.environ | self.environment, stdout=self._log, stderr=self._log
        )
        self._started.append(process)
        return process

    def _all_of(self, node: psutil.Process) -> list[psutil.Process]:
        try:
            return [node, *node.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def name_of(process: psutil.Process) -> str:
    """A process's command line, empty if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextlib.contextmanager
def cluster_of(folder: Path, nodes: int) -> Iterator[tuple[Nodes, list[psutil.Process]]]:
    """A head and some nodes of one CPU, up."""
    cluster = Nodes(folder)
    try:
        workers = []
        for count in range(1, nodes + 1):  # one by one: nodes that start at once take each other's ports
            workers.append(cluster.add())
            cluster.wait(count)
        with mock.patch.dict(os.environ, cluster.environment):  # for drivers that are started in the block
            yield cluster, workers
    finally:
        cluster.close()
